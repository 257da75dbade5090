package control

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// ReleaseAs makes the call as a user and returns its HTTP status.
func ReleaseAs(t *testing.T, d Daemon, uid uint32, body string) int {
	t.Helper()
	s := &Server{daemon: d, log: slog.New(slog.DiscardHandler)}
	w := httptest.NewRecorder()
	s.release(w, httptest.NewRequestWithContext(WithCaller(t.Context(), &unix.Ucred{Uid: uid}), http.MethodPost, "/v1/release", strings.NewReader(body)))
	return w.Code
}
