package daemon

import (
	"sync"

	"pgvrrp/internal/control"
)

// hubBacklog is how many events a reader may be behind before it is cut off; it then asks for the status again.
const hubBacklog = 256

// hub hands each transition to every reader of the event stream.
type hub struct {
	mu        sync.Mutex
	readers   map[chan control.Event]struct{}
	published uint64
}

// events is how many were published so far.
func (h *hub) events() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.published
}

func (h *hub) subscribe() (<-chan control.Event, func()) {
	c := make(chan control.Event, hubBacklog)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers == nil {
		h.readers = map[chan control.Event]struct{}{}
	}
	h.readers[c] = struct{}{}
	return c, func() { h.drop(c) }
}

func (h *hub) drop(c chan control.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.readers[c]; ok {
		delete(h.readers, c)
		close(c)
	}
}

// publish never blocks.
func (h *hub) publish(e control.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.published++
	for c := range h.readers {
		select {
		case c <- e:
		default:
			delete(h.readers, c)
			close(c)
		}
	}
}
