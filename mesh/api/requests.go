package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// readRequest takes nothing that it doesn't know. What a newer command asks for beside what is known could be what
// makes its request safe, so to leave it out isn't for the agent to decide.
func readRequest[T any](body io.Reader) (T, error) {
	var none T
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	var request *T // stays nil for the body null
	if err := decoder.Decode(&request); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return none, err
	}
	if request == nil {
		return none, errors.New("it is null")
	}
	switch _, err := decoder.Token(); {
	case err == nil:
		return none, errors.New("something follows the request")
	case !errors.Is(err, io.EOF):
		return none, fmt.Errorf("after the request: %w", err)
	}
	return *request, nil
}
