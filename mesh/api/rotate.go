package api

import "net/http"

// maxRequest is far above the longest body that means something.
const maxRequest = 1 << 10

// rotateRequest is the body of a request to rotate.
type rotateRequest struct {
	Force bool `json:"force"`
}

func (s *Server) rotate(w http.ResponseWriter, r *http.Request) {
	request, err := readRequest[rotateRequest](http.MaxBytesReader(w, r.Body, maxRequest))
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
