package control

import (
	"net/http"
	"strings"
	"testing"
)

// RawCall makes a call that no client of ours would make and returns its HTTP status.
func RawCall(t *testing.T, socket, method, path, body string) int {
	t.Helper()
	c := NewClient(socket)
	defer c.Close()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://vrrpd"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
