package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxRequest is far above the longest body that means something.
const maxRequest = 1 << 10

// rotateRequest is the body of a request to rotate.
type rotateRequest struct {
	Force bool `json:"force"`
}

func (s *Server) rotate(w http.ResponseWriter, r *http.Request) {
	request, err := readRotateRequest(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, `the body isn't a request to rotate, such as {"force":false}: `+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.cfg.Rotate(request.Force)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, answer)
}

// readRotateRequest takes nothing that it doesn't know. What a newer command asks for beside force could be what
// makes its request safe, so to leave it out isn't for the agent to decide.
func readRotateRequest(body io.Reader) (rotateRequest, error) {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	var request *rotateRequest // stays nil for the body null
	if err := decoder.Decode(&request); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return rotateRequest{}, err
	}
	if request == nil {
		return rotateRequest{}, errors.New("it is null")
	}
	switch _, err := decoder.Token(); {
	case err == nil:
		return rotateRequest{}, errors.New("something follows the request")
	case !errors.Is(err, io.EOF):
		return rotateRequest{}, fmt.Errorf("after the request: %w", err)
	}
	return *request, nil
}
