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
	if err := l.await(ctx, func() error { return r.Barrier(changeTime).Error() }); err != nil {
		return fmt.Errorf("read behind a barrier: %w", l.outcome(err))
	}
	return nil
}
