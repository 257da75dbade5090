package check

import (
	"strings"
	"testing"
	"time"

	"pgvrrp/test/lab/meter"
)

func TestSet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sent  []meter.Row
		there []int64
		want  string
	}{
		{"all there", []meter.Row{{N: 1, Outcome: meter.Acked}, {N: 2, Outcome: meter.Acked}}, []int64{2, 1}, ""},
		{"indeterminate and warned either way", []meter.Row{{N: 1, Outcome: meter.Indeterminate}, {N: 2, Outcome: meter.Indeterminate}, {N: 3, Outcome: meter.Warned}, {N: 4, Outcome: meter.Warned}, {N: 5, Outcome: meter.Failed}}, []int64{1, 3}, ""},
		{"lost", []meter.Row{{N: 1, Outcome: meter.Acked}, {N: 2, Outcome: meter.Acked}}, []int64{1}, "1 rows acknowledged and lost: [2]"},
		{"failed and there", []meter.Row{{N: 1, Outcome: meter.Failed}}, []int64{1}, "1 rows there although failed: [1]"},
		{"never sent", []meter.Row{{N: 1, Outcome: meter.Acked}}, []int64{1, 7}, "1 rows there although never sent: [7]"},
		{"twice", []meter.Row{{N: 1, Outcome: meter.Acked}}, []int64{1, 1}, "1 rows there twice: [1]"},
		{"no history", []meter.Row{{N: 1, Outcome: meter.Acked}, {N: 1, Outcome: meter.Failed}}, []int64{1}, "sent twice"},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, Set(tt.sent, tt.there), tt.want) })
	}
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestWithout(t *testing.T) {
	history := []meter.RegisterOp{
		{Read: true, Return: ms(9), Value: 1, Known: true}, {Return: ms(10), Value: 2, Known: true}, {Read: true, Return: ms(10), Value: 3, Known: true},
		{Read: true, Return: ms(14), Value: 3, Known: true}, {Read: true, Return: ms(15), Value: 2, Known: true},
	}
	got := Without(history, ms(10), ms(5))
	if len(got) != 3 || got[0].Value != 1 || got[1].Read || got[2].Return != ms(15) {
		t.Errorf("got %+v, want all but the two reads of that time", got)
	}
}

func TestRegisters(t *testing.T) {
	add := func(client, call, ret int, v int64) meter.RegisterOp {
		return meter.RegisterOp{Client: client, Call: ms(call), Return: ms(ret), Value: v, Known: true}
	}
	read := func(client, call, ret int, v int64) meter.RegisterOp {
		op := add(client, call, ret, v)
		op.Read = true
		return op
	}
	unknown := func(client, call int) meter.RegisterOp {
		return meter.RegisterOp{Client: client, Call: ms(call), Return: ms(call + 1)}
	}
	for _, tt := range []struct {
		name    string
		history []meter.RegisterOp
		want    string
	}{
		{"one after the other", []meter.RegisterOp{add(1, 0, 1, 1), read(2, 2, 3, 1), add(2, 4, 5, 2), read(1, 6, 7, 2)}, ""},
		{"side by side", []meter.RegisterOp{add(1, 0, 10, 2), add(2, 1, 9, 1), read(3, 2, 8, 1)}, ""},
		{"unknown that came", []meter.RegisterOp{add(1, 0, 1, 1), unknown(2, 2), read(1, 5, 6, 2)}, ""},
		{"unknown that came late", []meter.RegisterOp{unknown(2, 2), read(1, 5, 6, 0), read(1, 7, 8, 1)}, ""},
		{"unknown that never came", []meter.RegisterOp{add(1, 0, 1, 1), unknown(2, 2), read(1, 5, 6, 1)}, ""},
		{"two registers", []meter.RegisterOp{add(1, 0, 1, 1), {Key: 1, Client: 2, Call: ms(2), Return: ms(3), Value: 1, Known: true}}, ""},
		{"went back", []meter.RegisterOp{add(1, 0, 1, 1), add(1, 2, 3, 2), read(2, 4, 5, 1)}, "went back (added, read)"},
		{"went back side by side with an addition", []meter.RegisterOp{add(1, 0, 20, 2), add(2, 1, 2, 1), read(2, 3, 4, 2), read(2, 5, 6, 1)}, "went back"},
		{"lost addition", []meter.RegisterOp{add(1, 0, 1, 1), add(2, 2, 3, 1)}, "two additions were answered by 1"},
		{"nobody added", []meter.RegisterOp{add(1, 0, 1, 1), read(2, 2, 3, 2)}, "not linearizable"},
		{"read before it was asked for", []meter.RegisterOp{read(2, 0, 1, 1), add(1, 2, 3, 1)}, "not linearizable"},
		{"unknown counted twice", []meter.RegisterOp{unknown(1, 0), read(2, 2, 3, 2)}, "not linearizable"},
		{"unknown before its call", []meter.RegisterOp{read(2, 0, 1, 1), unknown(1, 2)}, "not linearizable"},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, Registers(tt.history), tt.want) })
	}
}

func TestOneWriter(t *testing.T) {
	w := func(node string, tli uint32, sent, acked int) Write {
		return Write{Node: node, Timeline: tli, Sent: ms(sent), Acked: ms(acked)}
	}
	for _, tt := range []struct {
		name   string
		writes []Write
		want   string
	}{
		{"one after the other", []Write{w("n1", 1, 0, 1), w("n1", 1, 2, 3), w("n2", 2, 4, 5), w("n1", 3, 6, 7)}, ""},
		{"sent before, acknowledged late", []Write{w("n1", 1, 0, 20), w("n2", 2, 10, 11)}, ""},
		{"two at a time", []Write{w("n2", 2, 0, 1), w("n1", 1, 2, 3)}, "n1 one on timeline 1 that was sent at 2ms"},
		{"taking turns", []Write{w("n1", 1, 0, 1), w("n2", 2, 2, 3), w("n1", 1, 4, 5), w("n2", 2, 6, 7)}, "n1 one on timeline 1 that was sent at 4ms"},
		{"one timeline of two", []Write{w("n1", 1, 0, 1), w("n2", 1, 2, 3)}, "timeline 1: n1 and n2"},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, OneWriter(tt.writes), tt.want) })
	}
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("got no error, want %q", want)
	case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	}
}
