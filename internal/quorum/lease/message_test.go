package lease

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

var full = Message{Kind: Report, Refusal: OtherConfig, OK: true, Priority: 200, Resource: "main", Epoch: 7, Seq: 1 << 40, Config: Config{12, 1<<64 - 1}, Boot: 1<<63 + 5,
	Hold: 420 * time.Millisecond, Incarnation: "4f1d", Text: "why", SystemID: 1<<63 + 9, TLI: 1<<32 - 1, LSN: 1 << 60, Record: []byte("{}")}

func TestMessageRoundTrip(t *testing.T) {
	for kind := Renew; kind <= lastKind; kind++ {
		for _, m := range []Message{{Kind: kind, Resource: "r"}, full} {
			m.Kind = kind
			b, err := m.Append([]byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b[1:])
			if err != nil || !reflect.DeepEqual(got, m) {
				t.Errorf("got %+v, %v, want %+v", got, err, m)
			}
			for k := 1; k < len(b); k++ {
				if _, err := Decode(b[1:k]); err == nil {
					t.Errorf("%v cut to %d bytes: got no error", kind, k-1)
				}
			}
			if _, err := Decode(append(b[1:], 0)); err == nil {
				t.Errorf("%v with a byte more: got no error", kind)
			}
		}
	}
}

func TestMessageLimits(t *testing.T) {
	long := strings.Repeat("x", 256)
	m := full
	m.Text = long
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b); err != nil || got.Text != long[:255] {
		t.Errorf("got a text of %d bytes, %v, want it cut to 255", len(got.Text), err)
	}
	for name, change := range map[string]func(*Message){
		"resource":    func(m *Message) { m.Resource = long },
		"incarnation": func(m *Message) { m.Incarnation = long },
		"record":      func(m *Message) { m.Record = make([]byte, maxRecord+1) },
	} {
		m := full
		change(&m)
		if b, err := m.Append([]byte("x")); err == nil || string(b) != "x" {
			t.Errorf("%s too long: got %d bytes, %v, want an error and nothing appended", name, len(b), err)
		}
	}
	for name, change := range map[string]func([]byte){
		"kind 0":          func(b []byte) { b[0] = 0 },
		"kind of a later": func(b []byte) { b[0] = byte(lastKind) + 1 },
		"refusal":         func(b []byte) { b[1] = byte(OtherConfig) + 1 },
		"flags":           func(b []byte) { b[2] = 2 },
	} {
		b, _ := full.Append(nil)
		change(b)
		if m, err := Decode(b); err == nil {
			t.Errorf("%s: got %+v, want an error", name, m)
		}
	}
	for name, change := range map[string]func(*Message){
		"negative hold": func(m *Message) { m.Hold = -1 },
		"endless hold":  func(m *Message) { m.Hold = time.Hour + 1 },
	} {
		m := full
		change(&m)
		b, _ := m.Append(nil)
		if m, err := Decode(b); err == nil {
			t.Errorf("%s: got %+v, want an error", name, m)
		}
	}
}

func FuzzMessage(f *testing.F) {
	b, _ := full.Append(nil)
	f.Add(b)
	b, _ = (&Message{Kind: Renew, Resource: "r", Epoch: 3}).Append(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := m.Append(nil)
		if err != nil {
			t.Fatalf("%+v was read and can't be written: %v", m, err)
		}
		m2, err := Decode(again)
		if err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("got %+v, %v, want %+v", m2, err, m)
		}
		if len(again) > len(b) || len(again) == len(b) && !bytes.Equal(again, b) {
			t.Fatalf("%x was read, and written as %x", b, again)
		}
	})
}
