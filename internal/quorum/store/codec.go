package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// Every value ends with its CRC-32C: the database checks its own pages only in part.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errSum = errors.New("checksum is wrong")

// sum appends b's checksum to it.
func sum(b []byte) []byte { return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)) }

// unsum is b without its checksum, which must be right.
func unsum(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 || crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, errSum
	}
	return b[:n], nil
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func put(b *bbolt.Bucket, key, value []byte) error {
	return b.Put(key, sum(append(make([]byte, 0, len(value)+4), value...)))
}

// get is a copy of the value; nil if there is none.
func get(b *bbolt.Bucket, key []byte) ([]byte, error) {
	v := b.Get(key)
	if v == nil {
		return nil, nil
	}
	v, err := unsum(v)
	if err != nil {
		return nil, fmt.Errorf("value of %q: %w", key, err)
	}
	return append([]byte{}, v...), nil
}

func putUint(b *bbolt.Bucket, key []byte, n uint64) error { return put(b, key, key64(n)) }

// getUint is 0 if there is none.
func getUint(b *bbolt.Bucket, key []byte) (uint64, error) {
	v, err := get(b, key)
	switch {
	case err != nil || v == nil:
		return 0, err
	case len(v) != 8:
		return 0, fmt.Errorf("value of %q has %d bytes, not 8", key, len(v))
	default:
		return binary.BigEndian.Uint64(v), nil
	}
}

// An entry of the log is
//
//	version[1] type[1] index[8] term[8] seconds[8] nanoseconds[4] len[4] data len[4] extensions crc[4]
const (
	entryVersion = 1
	entryHead    = 1 + 1 + 8 + 8 + 8 + 4
)

func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, entryHead+4+len(l.Data)+4+len(l.Extensions)+4)
	b = append(b, entryVersion, byte(l.Type))
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(l.AppendedAt.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(l.AppendedAt.Nanosecond()))
	b = appendBytes(b, l.Data)
	b = appendBytes(b, l.Extensions)
	return sum(b)
}

var errEntry = errors.New("log entry is malformed")

// decodeLog fills l with copies. It takes exactly what encodeLog makes.
func decodeLog(b []byte, l *raft.Log) error {
	b, err := unsum(b)
	if err != nil {
		return err
	}
	if len(b) < entryHead || b[0] != entryVersion {
		return errEntry
	}
	nanoseconds := binary.BigEndian.Uint32(b[26:])
	if nanoseconds >= 1e9 {
		return errEntry
	}
	e := raft.Log{
		Type:       raft.LogType(b[1]),
		Index:      binary.BigEndian.Uint64(b[2:]),
		Term:       binary.BigEndian.Uint64(b[10:]),
		AppendedAt: time.Unix(int64(binary.BigEndian.Uint64(b[18:])), int64(nanoseconds)).UTC(),
	}
	b = b[entryHead:]
	var ok bool
	if e.Data, b, ok = takeBytes(b); !ok {
		return errEntry
	}
	if e.Extensions, b, ok = takeBytes(b); !ok || len(b) != 0 {
		return errEntry
	}
	*l = e
	return nil
}

func appendBytes(b, v []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

// takeBytes is a copy of what appendBytes put at b's front, nil if that is empty, and the rest.
func takeBytes(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	if n > 0 {
		v = append([]byte{}, b[:n]...)
	}
	return v, b[n:], true
}

// Seen incarnations are
//
//	count[1], each: len[1] incarnation starts[8] boot[8]
//
// the one admitted last at the end.
func encodeSeen(all []Seen) []byte {
	b := []byte{byte(len(all))}
	for _, x := range all {
		b = append(b, byte(len(x.Incarnation)))
		b = append(b, x.Incarnation...)
		b = binary.BigEndian.AppendUint64(b, x.Starts)
		b = binary.BigEndian.AppendUint64(b, uint64(x.Boot))
		b = binary.BigEndian.AppendUint64(b, x.Words)
	}
	return b
}

var errSeen = errors.New("seen incarnations are malformed")

func decodeSeen(b []byte) ([]Seen, error) {
	if len(b) == 0 || b[0] > maxSeen {
		return nil, errSeen
	}
	all := make([]Seen, b[0])
	b = b[1:]
	for k := range all {
		if len(b) < 1 || len(b) < 1+int(b[0])+24 {
			return nil, errSeen
		}
		n := 1 + int(b[0])
		all[k] = Seen{Incarnation: string(b[1:n]), Starts: binary.BigEndian.Uint64(b[n:]), Boot: bootOf(b[n+8:]), Words: binary.BigEndian.Uint64(b[n+16:])}
		b = b[n+24:]
	}
	if len(b) != 0 {
		return nil, errSeen
	}
	return all, nil
}
