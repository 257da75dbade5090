package link

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/trust"
)

// streamLayer is the log's transport. Its addresses are Self.RaftID's.
type streamLayer struct {
	n    *Network
	done chan struct{}

	mu      sync.Mutex
	waiting chan *Conn
	ended   bool
}

// backlog is how many accepted connections may wait for the log to take them.
const backlog = 64

// Raft is the log's transport, for raft.NewNetworkTransport. Servers are named by Self.RaftID, as id and as address:
// a dial reaches that incarnation or fails. Closing it closes its connections; a later call makes a new one, which then
// gets the connections of other voters.
func (n *Network) Raft() raft.StreamLayer {
	s := &streamLayer{n: n, done: make(chan struct{}), waiting: make(chan *Conn, backlog)}
	if old := n.raft.Swap(s); old != nil {
		_ = old.Close()
	}
	n.mu.Lock()
	closed := n.closed
	n.mu.Unlock()
	if closed {
		_ = s.Close()
	}
	return s
}

// Accept waits for a connection of another voter whose hello was accepted.
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case <-s.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-s.waiting:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// offer hands a connection to Accept; false if nobody takes it.
func (s *streamLayer) offer(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	select {
	case s.waiting <- c:
		return true
	default:
		return false
	}
}

func (s *streamLayer) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Close ends Accept and closes every connection of this layer.
func (s *streamLayer) Close() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	close(s.done)
	s.mu.Unlock()
	s.n.closeConns(func(c *Conn) bool { return c.layer == s })
	return nil
}

// Addr is this voter's id and incarnation.
func (s *streamLayer) Addr() net.Addr { return raftAddr(s.n.o.Self.RaftID()) }

// Dial connects to a voter, given as "n1@INCARNATION", within timeout, or the default if it is 0.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if _, incarnation := target(string(address)); incarnation == "" {
		return nil, fmt.Errorf("dial voter %q: no incarnation is named", address)
	}
	if s.closed() {
		return nil, fmt.Errorf("dial voter %s: %w", address, net.ErrClosed)
	}
	c, err := s.n.dialFor(string(address), timeout, trust.ProtocolRaft, s)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// raftAddr is a voter's id and incarnation as an address.
type raftAddr string

func (raftAddr) Network() string  { return trust.ProtocolRaft }
func (a raftAddr) String() string { return string(a) }
