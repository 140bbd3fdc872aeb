// Package ui is the web page of the mesh: what it shows, and the HTTP handler that serves it with the data that it shows. It is
// made of the files in assets alone, which are in the binary; a browser fetches nothing from elsewhere. It changes nothing: there
// is no request that does, and no secret can pass it, because what it answers with, of package view, holds none.
//
//	GET /             the page, and below it the other files
//	GET /v1/status    200, a view.Status
//	GET /v1/topology  200, a view.Topology
//	GET /v1/matrix    200, a view.Matrix; 404: there is none
//
// What can't be had is answered by 502 and why, in words. Whoever reaches the handler may read all of it, so it matters where it
// listens. A page of somebody else's in a browser on this machine can't: see hosts.go.
package ui
