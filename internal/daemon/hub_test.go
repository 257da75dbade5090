package daemon

import (
	"testing"

	"pgvrrp/internal/control"
)

func TestEveryReaderGetsEveryEvent(t *testing.T) {
	var h hub
	a, cancelA := h.subscribe()
	b, cancelB := h.subscribe()
	defer cancelB()
	want := control.Event{Instance: "VI_1", Transition: control.Transition{Seq: 1}}
	h.publish(want)
	for _, c := range []<-chan control.Event{a, b} {
		if got := <-c; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	cancelA()
	cancelA() // harmless
	if _, open := <-a; open {
		t.Error("a cancelled reader still gets events")
	}
	h.publish(want)
	if got := <-b; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestASlowReaderIsCutOffAndHoldsNobodyUp(t *testing.T) {
	var h hub
	slow, cancel := h.subscribe()
	defer cancel()
	for n := range hubBacklog + 1 {
		h.publish(control.Event{Transition: control.Transition{Seq: uint64(n)}})
	}
	got := 0
	for range slow {
		got++
	}
	if got != hubBacklog {
		t.Errorf("%d events before the end, want %d", got, hubBacklog)
	}
}
