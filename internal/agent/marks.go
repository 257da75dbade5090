package agent

import (
	"fmt"
	"sync"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/postgres"
)

// Keeper keeps values over a crash: Keep returns once the value is on disk. *promote.Store is one.
type Keeper interface {
	Keep(name string, v any) error
	Kept(name string, v any) (found bool, err error)
}

const (
	marksName       = "agent"
	markName        = "mark"
	familyName      = "nodes"
	maintenanceName = "maintenance"
)

// kept is what the agent may not forget.
type kept struct {
	Promise   uint64      `json:"promise"`
	Attempted uint64      `json:"attempted,omitempty"`
	Marker    core.Marker `json:"marker,omitempty"`
}

// keptMark is written each second, apart from the rest.
type keptMark struct {
	Timeline uint32       `json:"timeline"`
	LSN      postgres.LSN `json:"lsn"`
}

// keptMaintenance is an operator's word, apart from the rest: whoever carries out the order writes it.
type keptMaintenance struct {
	On bool `json:"on"`
}

// marks are the marks on disk. One goroutine writes them.
type marks struct {
	keeper Keeper
	mu     sync.Mutex // for those that only look
	now    kept
}

func (m *marks) get() kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// openMarks reads the marks. What can't be read is an error: an agent that forgot its promise could break it.
func openMarks(k Keeper) (*marks, core.Marks, error) {
	m := &marks{keeper: k}
	var at keptMark
	var maintenance keptMaintenance
	if _, err := k.Kept(marksName, &m.now); err != nil {
		return nil, core.Marks{}, err
	}
	if _, err := k.Kept(markName, &at); err != nil {
		return nil, core.Marks{}, err
	}
	if _, err := k.Kept(maintenanceName, &maintenance); err != nil {
		return nil, core.Marks{}, err
	}
	return m, core.Marks{Promise: m.now.Promise, Attempted: m.now.Attempted, Marker: m.now.Marker, Mark: core.Position{TLI: at.Timeline, LSN: uint64(at.LSN)},
		Away: core.Away{On: maintenance.On}}, nil
}

// persist carries out the actions that write a mark. A promise never goes back.
func (m *marks) persist(a core.Action) error {
	next := m.now
	switch a.Kind {
	case core.PersistPromise:
		if a.Epoch < next.Promise {
			return fmt.Errorf("promise epoch %d: epoch %d is promised already", a.Epoch, next.Promise)
		}
		next.Promise = a.Epoch
	case core.PersistAttempt:
		next.Attempted = max(next.Attempted, a.Epoch)
	case core.PersistMarker:
		next.Marker = a.Marker
		if a.Marker == core.NoMarker {
			if err := m.mark(a.Pos); err != nil {
				return err
			}
		}
	case core.PersistMark:
		return m.mark(a.Pos)
	default:
		return fmt.Errorf("persist: %v is no mark", a.Kind)
	}
	if err := m.keeper.Keep(marksName, next); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = next
	return nil
}

func (m *marks) mark(p core.Position) error {
	return m.keeper.Keep(markName, keptMark{p.TLI, postgres.LSN(p.LSN)})
}
