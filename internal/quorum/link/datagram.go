package link

import (
	"crypto/sha256"
	"encoding/binary"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

// MaxPayload is the most that one Send carries, in bytes.
const MaxPayload = 8 << 10

// A datagram is, in network byte order:
//
//	magic[4] version[1] kind[1] cluster[8] starts[8] boot[8] words[8] given[8] toBoot[8] stream[2] seq[8]
//	len[1] from  len[1] incarnation  len[1] to  len[2] payload  hmac[32]
const (
	datagramMagic   = "vrqd"
	datagramVersion = 1
	fixedSize       = 64
	maxDatagram     = fixedSize + 3*(1+trust.MaxName) + 2 + MaxPayload + trust.MACSize
)

// kind is what a datagram is for.
type kind uint8

const (
	data kind = iota // Send's payload, on stream 0
	ping             // stream k+1: our time, on our link k, and how long the answer to the ping before took, 0 if none came
	pong             // stream pongStream|k+1: the ping's stream and time, back where it came from
	numKinds
)

const (
	pongStream  = 0x8000
	pingPayload = 8 + 8
	pongPayload = 2 + 8
)

// clusterTag is a short form of a cluster id; zero before the bootstrap.
type clusterTag [8]byte

func tagOf(cluster string) clusterTag {
	if cluster == "" {
		return clusterTag{}
	}
	sum := sha256.Sum256([]byte(cluster))
	tag := clusterTag(sum[:8])
	if tag == (clusterTag{}) {
		tag[0] = 1
	}
	return tag
}

// datagram is the decoded form. The slices are parts of what was decoded.
type datagram struct {
	kind        kind
	cluster     clusterTag
	starts      uint64
	boot        record.Boot
	words       uint64      // before this run
	given       uint64      // by now, what this datagram says among them
	toBoot      record.Boot // of the receiver, as the sender knows it; 0 if it doesn't
	stream      uint16
	seq         uint64
	from        []byte
	incarnation []byte
	to          []byte
	payload     []byte
}

// append adds d's encoding, without the HMAC, to b. The names must have at most trust.MaxName bytes, the payload at
// most MaxPayload.
func (d *datagram) append(b []byte) []byte {
	b = append(b, datagramMagic...)
	b = append(b, datagramVersion, byte(d.kind))
	b = append(b, d.cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, d.starts)
	b = binary.BigEndian.AppendUint64(b, uint64(d.boot))
	b = binary.BigEndian.AppendUint64(b, d.words)
	b = binary.BigEndian.AppendUint64(b, d.given)
	b = binary.BigEndian.AppendUint64(b, uint64(d.toBoot))
	b = binary.BigEndian.AppendUint16(b, d.stream)
	b = binary.BigEndian.AppendUint64(b, d.seq)
	for _, s := range [][]byte{d.from, d.incarnation, d.to} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.payload)))
	return append(b, d.payload...)
}

// openDatagram decodes what arrived. Nothing of a datagram is looked at before its HMAC but magic and version.
func openDatagram(sealer *trust.Sealer, b []byte) (datagram, Reason) {
	switch {
	case len(b) > maxDatagram:
		return datagram{}, TooLarge
	case len(b) < fixedSize+trust.MACSize || string(b[:4]) != datagramMagic:
		return datagram{}, Malformed
	case b[4] != datagramVersion:
		return datagram{}, OtherVersion
	}
	text, ok := sealer.Open(b)
	if !ok {
		return datagram{}, BadMAC
	}
	return decodeDatagram(text)
}

// decodeDatagram decodes a datagram without its HMAC. It takes exactly what append makes.
func decodeDatagram(b []byte) (datagram, Reason) {
	switch {
	case len(b) < fixedSize || string(b[:4]) != datagramMagic:
		return datagram{}, Malformed
	case b[4] != datagramVersion:
		return datagram{}, OtherVersion
	case b[5] >= byte(numKinds):
		return datagram{}, Malformed
	}
	d := datagram{
		kind:    kind(b[5]),
		cluster: clusterTag(b[6:14]),
		starts:  binary.BigEndian.Uint64(b[14:]),
		boot:    record.Boot(binary.BigEndian.Uint64(b[22:])),
		words:   binary.BigEndian.Uint64(b[30:]),
		given:   binary.BigEndian.Uint64(b[38:]),
		toBoot:  record.Boot(binary.BigEndian.Uint64(b[46:])),
		stream:  binary.BigEndian.Uint16(b[54:]),
		seq:     binary.BigEndian.Uint64(b[56:]),
	}
	b = b[fixedSize:]
	for _, s := range []*[]byte{&d.from, &d.incarnation, &d.to} {
		if len(b) < 1 || b[0] == 0 || b[0] > trust.MaxName || len(b) < 1+int(b[0]) {
			return datagram{}, Malformed
		}
		*s, b = b[1:1+b[0]], b[1+b[0]:]
	}
	if len(b) < 2 || len(b)-2 != int(binary.BigEndian.Uint16(b)) {
		return datagram{}, Malformed
	}
	d.payload = b[2:]
	if len(d.payload) > MaxPayload {
		return datagram{}, TooLarge
	}
	if !d.shape() {
		return datagram{}, Malformed
	}
	return d, None
}

// shape says whether stream, payload and kind belong together.
func (d *datagram) shape() bool {
	if d.starts == 0 || d.boot == 0 || d.seq == 0 {
		return false
	}
	switch d.kind {
	case data:
		return d.stream == 0
	case ping:
		return d.stream > 0 && d.stream < pongStream && len(d.payload) == pingPayload
	default:
		return d.stream > pongStream && len(d.payload) == pongPayload
	}
}
