package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"pgvrrp/internal/quiet"
)

// Client calls the vrrpd behind one socket.
type Client struct {
	socket string
	http   *http.Client
	held   chan net.Conn // a connection opened by Connect, used by the first call
}

// NewClient makes a client of the vrrpd that listens at socket ("" means DefaultSocket). It connects at the first call.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	c := &Client{socket: socket, held: make(chan net.Conn, 1)}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case conn := <-c.held:
				return conn, nil
			default:
				return c.dial(ctx)
			}
		},
		MaxIdleConnsPerHost: 8,                // an agent says several things at once, all the time
		IdleConnTimeout:     30 * time.Second, // before the server, which gives up after a minute, can while a call is on its way
	}}
	return c
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, err
	}
	return quiet.Conn(conn), nil
}

// Connect opens the connection now. The kernel notes the caller's credentials at this moment, so a program that gives up
// root afterwards can still make the privileged call that it was started for.
func (c *Client) Connect(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to vrrpd at %s: %w", c.socket, err)
	}
	select {
	case c.held <- conn:
	default:
		conn.Close()
	}
	return nil
}

// Close gives up every connection.
func (c *Client) Close() {
	select {
	case conn := <-c.held:
		conn.Close()
	default:
	}
	c.http.CloseIdleConnections()
}

// Status asks for everything.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Instance asks for one instance; an unknown name is an error.
func (c *Client) Instance(ctx context.Context, name string) (Instance, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return Instance{}, err
	}
	for _, i := range s.Instances {
		if i.Name == name {
			return i, nil
		}
	}
	return Instance{}, fmt.Errorf("ask vrrpd at %s: no instance %q", c.socket, name)
}

// Release gives an instance's mastership away and keeps this node off it for hold; 0 ends a running hold.
func (c *Client) Release(ctx context.Context, instance string, hold time.Duration) error {
	return c.call(ctx, http.MethodPost, "/v1/release", ReleaseRequest{Instance: instance, Hold: hold}, nil)
}

// MayRelease asks whether Release would be allowed to this caller, and gives nothing away.
func (c *Client) MayRelease(ctx context.Context, instance string) error {
	return c.call(ctx, http.MethodPost, "/v1/release", ReleaseRequest{Instance: instance, Ask: true}, nil)
}

// Events calls f for each transition from now on until f fails, ctx ends or vrrpd stops (io.EOF).
// ready, if not nil, is called once the stream stands: what happens after that is not missed.
func (c *Client) Events(ctx context.Context, ready func(), f func(Event) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if ready != nil {
		ready()
	}
	return lines(ctx, c.socket, resp.Body, f)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		out = new(struct{})
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read answer of vrrpd at %s: %w", c.socket, err)
	}
	// Only an answer that was read to its end leaves the connection, and the credentials of Connect, to the next call.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("read answer of vrrpd at %s: %w", c.socket, err)
	}
	return nil
}

// do returns an answer with status 200, or the error that vrrpd sent.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode call to vrrpd: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vrrpd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make call to vrrpd: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask vrrpd at %s: %w", c.socket, errors.Unwrap(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e errorBody
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e); err != nil || e.Error == "" {
		return nil, fmt.Errorf("ask vrrpd at %s: %s", c.socket, resp.Status)
	}
	return nil, errors.New(e.Error)
}
