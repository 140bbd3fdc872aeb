package ui

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// onlyFor refuses requests by names that aren't the server's. By one that an attacker made to mean this server's address (DNS
// rebinding), a page of theirs in a browser that reaches it would count as of the same origin, and could read the answers. An
// address can't be made to mean another.
func onlyFor(listen string, next http.Handler) http.Handler {
	own, _, err := net.SplitHostPort(listen)
	if err != nil {
		own = ""
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := hostOf(r.Host); !isOwn(name, own) {
			http.Error(w, fmt.Sprintf("this is no page of %q: ask for it by an IP address or as localhost", name), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf is the host of a header Host (RFC 9110, section 7.2), without port and brackets.
func hostOf(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(header, "["), "]")
}

// isOwn reports whether a name is an address, this machine's own name for itself (RFC 6761, section 6.3), or the one that the
// server was given.
func isOwn(name, own string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return strings.EqualFold(name, "localhost") || own != "" && strings.EqualFold(name, own)
}
