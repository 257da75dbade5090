package link

import (
	"bytes"
	"strings"
	"testing"

	"pgvrrp/internal/quorum/trust"
)

func validDatagram() datagram {
	return datagram{
		kind: data, cluster: tagOf("c"), starts: 3, boot: 5, toBoot: 7, stream: 0, seq: 11,
		from: []byte("n1"), incarnation: []byte("inc"), to: []byte("w1/2"), payload: []byte("hello"),
	}
}

func TestDatagramRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*datagram)
	}{
		{"data", func(*datagram) {}},
		{"empty payload", func(d *datagram) { d.payload = nil }},
		{"largest", func(d *datagram) {
			d.from = bytes.Repeat([]byte("n"), trust.MaxName)
			d.incarnation, d.to = d.from, d.from
			d.payload = bytes.Repeat([]byte{0xff}, MaxPayload)
		}},
		{"no cluster", func(d *datagram) { d.cluster = clusterTag{} }},
		{"ping", func(d *datagram) { d.kind, d.stream, d.payload = ping, 2, make([]byte, pingPayload) }},
		{"pong", func(d *datagram) { d.kind, d.stream, d.payload = pong, pongStream|2, make([]byte, pongPayload) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := validDatagram()
			tc.change(&want)
			b := want.append(nil)
			if len(b)+trust.MACSize > maxDatagram {
				t.Errorf("%d bytes, more than the largest", len(b))
			}
			got, reason := decodeDatagram(b)
			if reason != None {
				t.Fatalf("refused as %v", reason)
			}
			if !bytes.Equal(got.append(nil), b) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if got.kind != want.kind || got.cluster != want.cluster || got.starts != want.starts || got.boot != want.boot ||
				got.toBoot != want.toBoot || got.stream != want.stream || got.seq != want.seq ||
				string(got.from) != string(want.from) || string(got.incarnation) != string(want.incarnation) ||
				string(got.to) != string(want.to) || string(got.payload) != string(want.payload) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestDatagramRefused(t *testing.T) {
	sealer, err := newKey(t).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey(t).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	valid := validDatagram()
	plain := valid.append(nil)
	sealed := func(change func([]byte) []byte) []byte { return sealer.Seal(change(bytes.Clone(plain))) }
	field := func(change func(*datagram)) []byte {
		d := validDatagram()
		change(&d)
		return sealer.Seal(d.append(nil))
	}
	for _, tc := range []struct {
		name string
		b    []byte
		want Reason
	}{
		{"valid", sealer.Seal(bytes.Clone(plain)), None},
		{"empty", nil, Malformed},
		{"garbage", bytes.Repeat([]byte("x"), 200), Malformed},
		{"magic alone", []byte(datagramMagic), Malformed},
		{"another magic", sealed(func(b []byte) []byte { b[0] = 'x'; return b }), Malformed},
		{"another version", sealed(func(b []byte) []byte { b[4] = 2; return b }), OtherVersion},
		{"another key", other.Seal(bytes.Clone(plain)), BadMAC},
		{"not sealed", append(bytes.Clone(plain), make([]byte, trust.MACSize)...), BadMAC},
		{"changed payload", func() []byte { b := sealer.Seal(bytes.Clone(plain)); b[len(b)-trust.MACSize-1] ^= 1; return b }(), BadMAC},
		{"changed mac", func() []byte { b := sealer.Seal(bytes.Clone(plain)); b[len(b)-1] ^= 1; return b }(), BadMAC},
		{"cut short", sealer.Seal(bytes.Clone(plain))[:len(plain)+trust.MACSize-1], BadMAC},
		{"a byte more", append(sealer.Seal(bytes.Clone(plain)), 0), BadMAC},
		{"above the largest", make([]byte, maxDatagram+1), TooLarge},
		{"unknown kind", field(func(d *datagram) { d.kind = numKinds }), Malformed},
		{"payload longer than said", sealed(func(b []byte) []byte { return append(b, 0) }), Malformed},
		{"payload shorter than said", sealed(func(b []byte) []byte { return b[:len(b)-1] }), Malformed},
		{"ends within a name", sealed(func(b []byte) []byte { return b[:fixedSize+2] }), Malformed},
		{"ends before the payload's length", sealed(func(b []byte) []byte { return b[:len(b)-len("hello")-1] }), Malformed},
		{"no sender", field(func(d *datagram) { d.from = nil }), Malformed},
		{"no incarnation", field(func(d *datagram) { d.incarnation = nil }), Malformed},
		{"no receiver", field(func(d *datagram) { d.to = nil }), Malformed},
		{"long sender", field(func(d *datagram) { d.from = make([]byte, trust.MaxName+1) }), Malformed},
		{"start 0", field(func(d *datagram) { d.starts = 0 }), Malformed},
		{"boot 0", field(func(d *datagram) { d.boot = 0 }), Malformed},
		{"number 0", field(func(d *datagram) { d.seq = 0 }), Malformed},
		{"data on another stream", field(func(d *datagram) { d.stream = 1 }), Malformed},
		{"ping on stream 0", field(func(d *datagram) { d.kind, d.payload = ping, make([]byte, pingPayload) }), Malformed},
		{"ping on a pong's stream", field(func(d *datagram) {
			d.kind, d.stream, d.payload = ping, pongStream|1, make([]byte, pingPayload)
		}), Malformed},
		{"pong on a ping's stream", field(func(d *datagram) { d.kind, d.stream, d.payload = pong, 1, make([]byte, pongPayload) }), Malformed},
		{"long ping", field(func(d *datagram) { d.kind, d.stream, d.payload = ping, 1, make([]byte, pingPayload+1) }), Malformed},
		{"payload above the largest", field(func(d *datagram) { d.payload = make([]byte, MaxPayload+1) }), TooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, got := openDatagram(sealer, tc.b); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	whole := sealer.Seal(bytes.Clone(plain))
	for n := range len(whole) {
		if _, got := openDatagram(sealer, whole[:n]); got == None {
			t.Errorf("the first %d bytes are taken", n)
		}
	}
}

func FuzzDatagram(f *testing.F) {
	for _, change := range []func(*datagram){
		func(*datagram) {},
		func(d *datagram) { d.kind, d.stream, d.payload = ping, 1, make([]byte, pingPayload) },
		func(d *datagram) { d.kind, d.stream, d.payload = pong, pongStream|1, make([]byte, pongPayload) },
		func(d *datagram) { d.from = nil },
	} {
		d := validDatagram()
		change(&d)
		f.Add(d.append(nil))
	}
	f.Add([]byte(datagramMagic))
	sealer, err := newKey(f).Sealer()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, reason := openDatagram(sealer, b); reason == None {
			t.Fatal("an unsealed datagram is taken")
		}
		d, reason := decodeDatagram(b)
		if reason != None {
			return
		}
		if !bytes.Equal(d.append(nil), b) {
			t.Errorf("%x decodes to %+v, which encodes otherwise", b, d)
		}
		if len(d.payload) > MaxPayload || len(d.from) > trust.MaxName || d.boot == 0 || d.starts == 0 {
			t.Errorf("took %+v", d)
		}
	})
}

func TestClusterTag(t *testing.T) {
	if tagOf("") != (clusterTag{}) {
		t.Error("no cluster has a tag")
	}
	if tagOf("a") == tagOf("b") || tagOf("a") == (clusterTag{}) {
		t.Error("clusters cannot be told apart")
	}
}

func validHello() hello {
	return hello{self: self("n1"), cluster: "c", wantID: "w1/2", wantIncarnation: "inc", reason: NotAdmitted, detail: "why"}
}

func TestHelloRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*hello)
	}{
		{"all", func(*hello) {}},
		{"before the bootstrap", func(h *hello) { h.cluster, h.wantIncarnation = "", "" }},
		{"largest", func(h *hello) {
			long := strings.Repeat("n", trust.MaxName)
			h.self.ID, h.self.Incarnation, h.cluster, h.wantID, h.wantIncarnation = long, long, long, long, long
			h.detail = strings.Repeat("d", maxDetail)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := validHello()
			tc.change(&want)
			got, err := readHello(bytes.NewReader(want.append(nil)))
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	long := validHello()
	long.detail = strings.Repeat("d", maxDetail+1)
	got, err := readHello(bytes.NewReader(long.append(nil)))
	if err != nil || len(got.detail) != maxDetail {
		t.Errorf("a long detail: got %d bytes, %v", len(got.detail), err)
	}
}

func TestHelloRefused(t *testing.T) {
	valid := validHello()
	frame := valid.append(nil)
	change := func(f func(*hello)) []byte {
		h := validHello()
		f(&h)
		return h.append(nil)
	}
	for _, tc := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "EOF"},
		{"half", frame[:len(frame)/2], "unexpected EOF"},
		{"empty frame", []byte{0, 0}, "malformed"},
		{"longer than any hello", []byte{0xff, 0xff}, "is longer than"},
		{"version", func() []byte { b := bytes.Clone(frame); b[2] = 9; return b }(), "another version"},
		{"byte more", func() []byte { b := append(bytes.Clone(frame), 0); b[1]++; return b }(), "malformed"},
		{"byte less", func() []byte { b := bytes.Clone(frame); b[1]--; return b }(), "malformed"},
		{"reason", change(func(h *hello) { h.reason = numReasons }), "malformed"},
		{"id", change(func(h *hello) { h.self.ID = "n@1" }), "malformed"},
		{"no incarnation", change(func(h *hello) { h.self.Incarnation = "" }), "malformed"},
		{"start 0", change(func(h *hello) { h.self.Starts = 0 }), "malformed"},
		{"boot 0", change(func(h *hello) { h.self.Boot = 0 }), "malformed"},
		{"long cluster", change(func(h *hello) { h.cluster = strings.Repeat("c", trust.MaxName+1) }), "malformed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readHello(bytes.NewReader(tc.b))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", err, tc.want)
			}
		})
	}
}

func FuzzHello(f *testing.F) {
	h := validHello()
	f.Add(h.append(nil)[2:])
	f.Add([]byte{helloVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.append(nil)[2:], b) {
			t.Errorf("%x decodes to %+v, which encodes otherwise", b, h)
		}
		if h.self.check() != nil {
			t.Errorf("took %+v", h.self)
		}
	})
}
