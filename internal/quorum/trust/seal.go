package trust

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"
)

// MACSize is what Seal adds to a datagram, in bytes.
const MACSize = sha256.Size

// Sealer authenticates datagrams by HMAC-SHA-256 (RFC 2104), untruncated. It does not hide them. Which cluster, sender
// and number a datagram has, its own header says, under the same HMAC. Safe for concurrent use.
type Sealer struct {
	macs sync.Pool // of hash.Hash, so that the key's two blocks are hashed once and not for each datagram
}

// Sealer makes the datagram sealer of this key.
func (k Key) Sealer() (*Sealer, error) {
	secret, err := k.derive("datagram")
	if err != nil {
		return nil, fmt.Errorf("make datagram sealer: %w", err)
	}
	return &Sealer{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}, nil
}

// Seal appends the HMAC of all of b to b.
func (s *Sealer) Seal(b []byte) []byte {
	m := s.macs.Get().(hash.Hash)
	defer s.macs.Put(m)
	m.Reset()
	m.Write(b)
	return m.Sum(b)
}

// Open returns what Seal was given, as a part of b, or false if b was not sealed with this key or was changed.
func (s *Sealer) Open(b []byte) ([]byte, bool) {
	if len(b) < MACSize {
		return nil, false
	}
	text, mac := b[:len(b)-MACSize], b[len(b)-MACSize:]
	m := s.macs.Get().(hash.Hash)
	defer s.macs.Put(m)
	m.Reset()
	m.Write(text)
	var want [MACSize]byte
	return text, hmac.Equal(m.Sum(want[:0]), mac)
}
