package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pgvrrp/internal/quorum/record"
)

// MessageKind says what a datagram asks or answers.
type MessageKind uint8

// The messages. An answer repeats Seq and Boot of what it answers.
const (
	Renew     MessageKind = 1 + iota // holder → voters: acknowledge Epoch until Hold has passed
	Renewed                          // voter → holder
	Refused                          // voter → who asked: Refusal; for Old and Sealed, Epoch is the one that stands against it
	SealQuery                        // coordinator → voters: would you seal Epoch?
	WouldSeal                        // voter → coordinator
	Wait                             // voter → coordinator: not before Hold has passed
	SealIt                           // coordinator → voters: seal Epoch
	Sealed                           // voter → coordinator: Epoch is sealed, on disk
	PeerRenew                        // holder without a majority → data nodes: acknowledge that you have not pledged for a higher epoch
	PeerOK                           // data node → holder
	Report                           // data node → voters: it lives, it has pledged for Epoch, and whether it may be granted it
	Want                             // data node → voters: the master seems gone, look
	Push                             // coordinator → everyone: Record is committed
	lastKind  = Push
)

// String is the message's name.
func (k MessageKind) String() string {
	names := [...]string{"", "Renew", "Renewed", "Refused", "SealQuery", "WouldSeal", "Wait", "Seal", "Sealed", "PeerRenew", "PeerOK", "Report", "Want", "Push"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("message %d", uint8(k))
}

// Refusal is why a voter doesn't do what it is asked.
type Refusal uint8

// The refusals.
const (
	NotRefused  Refusal = iota
	IsSealed            // the epoch is sealed here
	IsOld               // a higher epoch is known here
	OtherConfig         // the membership is not the newest in this log
)

// String tells the refusal.
func (r Refusal) String() string {
	names := [...]string{"", "sealed", "a higher epoch is known", "another membership"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("refusal %d", uint8(r))
}

// Message is one datagram. Which fields count depends on Kind.
type Message struct {
	Kind        MessageKind
	Refusal     Refusal
	OK          bool  // Report: may be granted
	Priority    uint8 // Report
	Resource    string
	Epoch       uint64
	Seq         uint64
	Config      Config
	Boot        record.Boot
	Hold        time.Duration
	Incarnation string // Report
	Text        string // Report: why not OK
	SystemID    uint64 // Report, PostgreSQL
	TLI         uint32
	LSN         uint64
	Record      []byte // Push
}

// The limits of a message's fields.
const (
	maxText   = 255
	maxRecord = 6 << 10
)

var errShort = errors.New("decode message: too short")

// Append encodes m behind b. Text is cut to 255 bytes. A record of more than 6 KiB is an error: it does not fit a datagram.
func (m *Message) Append(b []byte) ([]byte, error) {
	if len(m.Resource) > maxText || len(m.Incarnation) > maxText || len(m.Record) > maxRecord {
		return b, fmt.Errorf("encode %v message of %.40s: too long", m.Kind, m.Resource)
	}
	flags := byte(0)
	if m.OK {
		flags = 1
	}
	b = append(b, byte(m.Kind), byte(m.Refusal), flags, m.Priority)
	for _, v := range [...]uint64{m.Epoch, m.Seq, m.Config.Index, m.Config.Digest, uint64(m.Boot), uint64(m.Hold), m.SystemID, uint64(m.TLI), m.LSN} {
		b = binary.AppendUvarint(b, v)
	}
	text := m.Text
	if len(text) > maxText {
		text = text[:maxText]
	}
	for _, s := range [...]string{m.Resource, m.Incarnation, text} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Record)))
	return append(b, m.Record...), nil
}

// Decode reads what Append wrote; the error says what is wrong. Record points into b.
func Decode(b []byte) (Message, error) {
	if len(b) < 4 {
		return Message{}, errShort
	}
	m := Message{Kind: MessageKind(b[0]), Refusal: Refusal(b[1]), OK: b[2] == 1, Priority: b[3]}
	if m.Kind == 0 || m.Kind > lastKind {
		return Message{}, fmt.Errorf("decode message: unknown kind %d", b[0])
	}
	if b[2] > 1 || m.Refusal > OtherConfig {
		return Message{}, fmt.Errorf("decode %v message: bad flags", m.Kind)
	}
	b = b[4:]
	var numbers [9]uint64
	for k := range numbers {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return Message{}, errShort
		}
		numbers[k], b = v, b[n:]
	}
	m.Epoch, m.Seq, m.Config = numbers[0], numbers[1], Config{numbers[2], numbers[3]}
	m.Boot, m.Hold, m.SystemID, m.LSN = record.Boot(numbers[4]), time.Duration(numbers[5]), numbers[6], numbers[8]
	if m.Hold < 0 || m.Hold > time.Hour {
		return Message{}, fmt.Errorf("decode %v message: hold %v is out of range", m.Kind, m.Hold)
	}
	if numbers[7] > 1<<32-1 {
		return Message{}, fmt.Errorf("decode %v message: timeline %d is out of range", m.Kind, numbers[7])
	}
	m.TLI = uint32(numbers[7])
	for _, s := range [...]*string{&m.Resource, &m.Incarnation, &m.Text} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return Message{}, errShort
		}
		*s, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size > maxRecord || size != uint64(len(b)-n) {
		return Message{}, fmt.Errorf("decode %v message: its record has another length than it says", m.Kind)
	}
	if size > 0 {
		m.Record = b[n:]
	}
	return m, nil
}
