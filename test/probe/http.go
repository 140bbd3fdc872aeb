package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// page is what the server answers over HTTP, as JSON.
type page struct {
	Hostname string `json:"hostname"` // of the server
	Remote   string `json:"remote"`   // the client as the server sees it, IP:PORT
	Marker   string `json:"marker"`
}

func servePage(w http.ResponseWriter, r *http.Request) {
	hostname, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(page{Hostname: hostname, Remote: r.RemoteAddr, Marker: marker})
}

type getResult struct {
	URL    string `json:"url"`
	Status int    `json:"status"`
	page
	Millis int64 `json:"millis"`
}

// get fetches url, which a probe must answer.
func get(ctx context.Context, url string) (getResult, error) {
	result := getResult{URL: url}
	start := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return result, fmt.Errorf("get %s: %w", url, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return result, err // says method and URL itself
	}
	defer response.Body.Close()
	result.Status = response.StatusCode
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return result, fmt.Errorf("get %s: %w", url, err)
	}
	result.Millis = time.Since(start).Milliseconds()
	if response.StatusCode != http.StatusOK {
		return result, fmt.Errorf("get %s: %s", url, response.Status)
	}
	if err := json.Unmarshal(body, &result.page); err != nil {
		return result, fmt.Errorf("get %s: no probe answers there: %w", url, err)
	}
	return result, nil
}
