package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func FuzzDecodeLog(f *testing.F) {
	f.Add(encodeLog(&raft.Log{}))
	f.Add(encodeLog(&raft.Log{Index: 1, Term: 2, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("x"), AppendedAt: time.Unix(1, 2)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sum(bytes.Clone(b))} {
			var l raft.Log
			if decodeLog(b, &l) == nil && !bytes.Equal(encodeLog(&l), b) {
				t.Errorf("%x is decoded, and encoded as %x", b, encodeLog(&l))
			}
		}
	})
}

func FuzzDecodeSeen(f *testing.F) {
	f.Add(encodeSeen(nil))
	f.Add(encodeSeen([]Seen{{"a", 1, 2, 0}, {"bb", 3, 4, 0}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := decodeSeen(b)
		if err == nil && !bytes.Equal(encodeSeen(all), b) {
			t.Errorf("%x is decoded, and encoded as %x", b, encodeSeen(all))
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	m := &raft.SnapshotMeta{Version: 1, Configuration: conf("a@1", "b@2"), ConfigurationIndex: 5}
	b := encodeSnapshot(m, []byte("state"))
	f.Add(snapshotKey(1, 2, 3), b[:len(b)-4])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		m, state, err := decodeSnapshot(key, sum(bytes.Clone(b)))
		if err == nil && (m.Size != int64(len(state)) || len(key) != snapKey) {
			t.Errorf("%x: %+v", b, m)
		}
	})
}
