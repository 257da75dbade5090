package quorum

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/link"
	"pgvrrp/internal/quorum/raftlog"
	"pgvrrp/internal/quorum/record"
)

// call is one request between two voters; each connection carries one at a time, a line of JSON each way.
type call struct {
	Hello   bool                  `json:"hello,omitempty"`
	Apply   *record.Command       `json:"apply,omitempty"`
	Missing string                `json:"missing,omitempty"` // a resource
	Read    string                `json:"read,omitempty"`    // a resource, behind a barrier
	Tell    *control.AgentMessage `json:"tell,omitempty"`
	Add     string                `json:"add,omitempty"` // a voter
	Remove  string                `json:"remove,omitempty"`
}

type answer struct {
	Hello    *raftlog.Hello   `json:"hello,omitempty"`
	Text     string           `json:"text,omitempty"`
	Record   *record.Resource `json:"record,omitempty"`
	Error    string           `json:"error,omitempty"`
	Conflict string           `json:"conflict,omitempty"` // Apply: the log refused, for certain
	NoLeader bool             `json:"no_leader,omitempty"`
}

// The limits of a connection.
const (
	callLimit = 64 << 10
	ansLimit  = 4 << 20 // a record grows by a line with each promotion
	callIdle  = 30 * time.Second
	callTime  = 2 * time.Second
)

// serve answers the calls of one connection.
func (m *member) serve(ctx context.Context, from link.Self, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	lines := bufio.NewScanner(c)
	lines.Buffer(make([]byte, 4096), callLimit)
	for c.SetReadDeadline(time.Now().Add(callIdle)) == nil && lines.Scan() {
		var q call
		a := answer{}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			a.Error = "call not understood: " + err.Error()
		} else {
			a = m.answer(ctx, from, q)
		}
		b, err := json.Marshal(a)
		if err != nil {
			m.lg.Error("answer a call", "peer", from.ID, "error", err)
			return
		}
		if c.SetWriteDeadline(time.Now().Add(callTime)) != nil {
			return
		}
		if _, err := c.Write(append(b, '\n')); err != nil {
			return
		}
	}
}

func (m *member) answer(ctx context.Context, from link.Self, q call) answer {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	switch {
	case q.Hello:
		h := m.log.Hello()
		return answer{Hello: &h}
	case q.Apply != nil:
		return outcome(m.log.Apply(ctx, *q.Apply))
	case q.Missing != "":
		return answer{Text: m.missing(ctx, q.Missing)}
	case q.Read != "":
		return m.read(ctx, q.Read)
	case q.Tell != nil:
		q.Tell.From = from.ID
		if err := m.deliver(*q.Tell); err != nil {
			return answer{Error: err.Error()}
		}
		return answer{}
	case q.Add != "":
		m.lg.Info("add a voter", "voter", q.Add, "peer", from.ID)
		return outcome(m.log.Add(ctx, q.Add))
	case q.Remove != "":
		m.lg.Info("remove a voter", "voter", q.Remove, "peer", from.ID)
		return outcome(m.log.Remove(ctx, q.Remove))
	default:
		return answer{Error: "unknown call"}
	}
}

func outcome(err error) answer {
	var conflict *record.Conflict
	var notLeader *raftlog.NotLeader
	switch {
	case err == nil:
		return answer{}
	case errors.As(err, &conflict):
		return answer{Conflict: err.Error()}
	case errors.As(err, &notLeader):
		return answer{NoLeader: true, Error: err.Error()}
	default:
		return answer{Error: err.Error()}
	}
}

// read is a resource once this voter has made sure that it leads and has all of the log.
func (m *member) read(ctx context.Context, resource string) answer {
	if err := m.log.Barrier(ctx); err != nil {
		return outcome(err)
	}
	return answer{Record: m.log.State().Get(resource)}
}

// Refused says that the log did not carry out a command, for certain.
type Refused struct{ Reason string }

// Error is the log's reason.
func (r *Refused) Error() string { return r.Reason }

// apply has the leader put c into the log, whoever that is.
func (m *member) apply(ctx context.Context, c record.Command) error {
	a, err := m.lead(ctx, call{Apply: &c}, func(ctx context.Context) error { return m.log.Apply(ctx, c) })
	switch {
	case err != nil:
		return fmt.Errorf("%v: %w", c, err)
	case a.Conflict != "":
		return &Refused{a.Conflict}
	case a.Error != "":
		return fmt.Errorf("%v: %s", c, a.Error)
	default:
		return nil
	}
}

// leadTime bounds a question to the leader, and leadAgain is after which time the same one is asked again that said it does not lead.
const (
	leadTime  = 2 * time.Second
	leadAgain = 25 * time.Millisecond
)

var errNoLeader = errors.New("the log has no leader")

// lead asks the leader, which may be us. If there is none, or it is not heard, or it leads no more, the next one is asked as soon as
// it is known, for as long as ctx and leadTime let it. What may have come to one leader is never said to another.
func (m *member) lead(ctx context.Context, q call, here func(context.Context) error) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, leadTime)
	defer cancel()
	for {
		turn := m.log.Turn()
		id, ours := m.log.Leader()
		var a answer
		var err error
		switch {
		case ours && q.Read != "":
			a = m.read(ctx, q.Read)
		case ours:
			a = outcome(here(ctx))
		case id == "":
			err = errNoLeader
		default:
			a, err = m.rpc.callHeard(ctx, id, q)
		}
		var u *unsaid
		if !a.NoLeader && !errors.Is(err, errNoLeader) && !errors.As(err, &u) {
			return a, err
		}
		again := time.NewTimer(leadAgain)
		select {
		case <-turn:
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return a, err
		}
		again.Stop()
	}
}

// Hello implements raftlog.Peers.
func (m *member) Hello(ctx context.Context, id string) (raftlog.Hello, error) {
	a, err := m.rpc.call(ctx, id, call{Hello: true})
	if err != nil {
		return raftlog.Hello{}, err
	}
	if a.Hello == nil {
		return raftlog.Hello{}, fmt.Errorf("ask voter %s: %s", id, a.Error)
	}
	return *a.Hello, nil
}

// callers keeps one connection to each voter that was asked.
type callers struct {
	net *link.Network

	mu    sync.Mutex
	peers map[string]*caller
	gone  bool
}

type caller struct {
	turn chan struct{} // holds a value while a call runs
	conn net.Conn
	in   *bufio.Reader
	used time.Time // when conn answered last
}

// run closes what is open when ctx ends.
func (c *callers) run(ctx context.Context) error {
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, p := range c.peers {
		select {
		case p.turn <- struct{}{}:
			p.close()
			<-p.turn
		default: // the call that runs closes it at its deadline
		}
	}
	return nil
}

func (c *callers) peer(id string) *caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers == nil {
		c.peers = map[string]*caller{}
	}
	p := c.peers[id]
	if p == nil {
		p = &caller{turn: make(chan struct{}, 1)}
		c.peers[id] = p
	}
	return p
}

// unsaid is why a question has certainly not come to the voter.
type unsaid struct{ err error }

// Error tells why.
func (u *unsaid) Error() string { return u.err.Error() }

// Unwrap is the reason.
func (u *unsaid) Unwrap() error { return u.err }

// call asks voter id. A connection that has gone stale is opened anew, once, if the question is one that may be asked twice.
func (c *callers) call(ctx context.Context, id string, q call) (answer, error) {
	p := c.peer(id)
	if ctx.Err() != nil { // or it might get its turn
		return answer{}, fmt.Errorf("ask voter %s: %w", id, &unsaid{context.Cause(ctx)})
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return answer{}, fmt.Errorf("ask voter %s: %w", id, &unsaid{context.Cause(ctx)})
	}
	defer func() { <-p.turn }()
	if time.Since(p.used) > callIdle/2 {
		p.close() // the other side hangs up on who is silent, and a command is not sent twice
	}
	stale := p.conn != nil
	a, err := p.ask(ctx, c.net, id, q)
	if err != nil && stale && ctx.Err() == nil && q.Apply == nil {
		a, err = p.ask(ctx, c.net, id, q)
	}
	if err != nil {
		return answer{}, fmt.Errorf("ask voter %s: %w", id, err)
	}
	return a, nil
}

// callHeard is call for as long as the links hear of the voter.
func (c *callers) callHeard(ctx context.Context, id string, q call) (answer, error) {
	ctx, cancel := c.net.Hearing(ctx, id)
	defer cancel()
	a, err := c.call(ctx, id, q)
	if err == nil || !errors.Is(context.Cause(ctx), link.ErrLost) {
		return a, err
	}
	// What came of it tells less.
	var u *unsaid
	if errors.As(err, &u) {
		return answer{}, fmt.Errorf("ask voter %s: %w", id, &unsaid{link.ErrLost})
	}
	return answer{}, fmt.Errorf("ask voter %s: %w", id, link.ErrLost)
}

func (p *caller) ask(ctx context.Context, n *link.Network, id string, q call) (_ answer, err error) {
	if p.conn == nil {
		if p.conn, err = n.Dial(ctx, id); err != nil {
			p.conn = nil
			return answer{}, &unsaid{err}
		}
		p.in = bufio.NewReader(p.conn)
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	deadline, ok := ctx.Deadline()
	if limit := time.Now().Add(callTime); !ok || deadline.After(limit) {
		deadline = limit
	}
	if err = p.conn.SetDeadline(deadline); err != nil {
		return answer{}, err
	}
	conn := p.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	b, err := json.Marshal(q)
	if err != nil {
		return answer{}, err
	}
	if _, err = p.conn.Write(append(b, '\n')); err != nil {
		return answer{}, err
	}
	line, err := readLine(p.in, ansLimit)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err = json.Unmarshal(line, &a); err != nil {
		return answer{}, err
	}
	p.used = time.Now()
	return a, nil
}

// readLine reads a line of at most limit bytes.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	for line := []byte(nil); ; {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, fmt.Errorf("a line of more than %d bytes", limit)
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		}
	}
}

func (p *caller) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}
