package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

const (
	helloVersion = 1
	maxHello     = 2048
	maxDetail    = 512
)

// hello is the first frame in each direction of a stream, the dialer's first. On the wire it is len[2] and then
//
//	version[1] reason[1] starts[8] boot[8] words[8]
//	len[2] and text of: id, incarnation, cluster, want id, want incarnation, detail
type hello struct {
	self            Self
	cluster         string
	wantID          string // the dialer's: whom it means to reach
	wantIncarnation string // "": any
	reason          Reason // the answer's: None, or why not
	detail          string
}

// errHelloVersion is a peer with another version of this program.
var errHelloVersion = errors.New("the other side speaks another version of the protocol: the same version of vrrpd is needed everywhere")

// append adds h's frame to b.
func (h *hello) append(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, helloVersion, byte(h.reason))
	b = binary.BigEndian.AppendUint64(b, h.self.Starts)
	b = binary.BigEndian.AppendUint64(b, uint64(h.self.Boot))
	b = binary.BigEndian.AppendUint64(b, h.self.Words)
	detail := h.detail
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	for _, s := range []string{h.self.ID, h.self.Incarnation, h.cluster, h.wantID, h.wantIncarnation, detail} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// readHello reads one frame, of at most maxHello bytes.
func readHello(r io.Reader) (hello, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return hello{}, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxHello {
		return hello{}, fmt.Errorf("hello of %d bytes is longer than %d", n, maxHello)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, err
	}
	return decodeHello(b)
}

var errHello = errors.New("hello is malformed")

// decodeHello decodes a frame without its length. It takes exactly what append makes.
func decodeHello(b []byte) (hello, error) {
	if len(b) < 1 {
		return hello{}, errHello
	}
	if b[0] != helloVersion {
		return hello{}, errHelloVersion
	}
	if len(b) < 26 {
		return hello{}, errHello
	}
	h := hello{reason: Reason(b[1])}
	h.self.Starts = binary.BigEndian.Uint64(b[2:])
	h.self.Boot = record.Boot(binary.BigEndian.Uint64(b[10:]))
	h.self.Words = binary.BigEndian.Uint64(b[18:])
	b = b[26:]
	for _, f := range []struct {
		s   *string
		max int
	}{
		{&h.self.ID, trust.MaxName},
		{&h.self.Incarnation, trust.MaxName},
		{&h.cluster, trust.MaxName},
		{&h.wantID, trust.MaxName},
		{&h.wantIncarnation, trust.MaxName},
		{&h.detail, maxDetail},
	} {
		if len(b) < 2 {
			return hello{}, errHello
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > f.max || len(b) < 2+n {
			return hello{}, errHello
		}
		*f.s, b = string(b[2:2+n]), b[2+n:]
	}
	if len(b) != 0 || h.reason >= numReasons {
		return hello{}, errHello
	}
	if h.self.check() != nil {
		return hello{}, errHello
	}
	return h, nil
}
