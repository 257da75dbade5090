package raftlog

import (
	"context"
	"fmt"
)

// Barrier returns once this voter has made sure that it still leads and has all that was ever committed, so that State is
// as new as the moment of the call. Not leading is a *NotLeader.
func (l *Log) Barrier(ctx context.Context) error {
	r := l.raft.Load()
	if r == nil || !l.leading.Load() {
		id, _ := l.Leader()
		return &NotLeader{Leader: id}
	}
	// An entry of our own term is a question to the majority, too: it is committed only if we still lead. Raft's timeout bounds the
	// queue alone.
	done := make(chan error, 1)
	go func() { done <- r.Barrier(changeTime).Error() }() // ends at the latest with our leadership
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("read behind a barrier: %w", l.outcome(err))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read behind a barrier: %w", ctx.Err())
	}
}
