package instance

import (
	"context"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

// The words of FIFO lines that tell of an effective priority; keepalived has no others for INIT and FAULT.
const (
	masterPriority = "MASTER_PRIORITY"
	backupPriority = "BACKUP_PRIORITY"
)

// tellPriority writes a line for the FIFOs if the effective priority has changed (notify_priority_changes).
func (i *Instance) tellPriority(now time.Time) {
	p := i.router.EffectivePriority()
	if p == i.told {
		return
	}
	i.told = p
	if !i.cfg.NotifyPriorityChanges {
		return
	}
	word := backupPriority
	if i.router.State() == vrrp.Active {
		word = masterPriority
	}
	i.opt.Hooks.Post(HookEvent{State: word, Seq: i.router.Seq(), Priority: p, At: now, LineOnly: true})
}

// Restate writes the state as it is for the FIFOs (fifo_write_vrrp_states_on_reload), unless a transition after seq has written
// one already. On the loop, so that it comes in its turn; an instance that has not left INIT has no state to tell.
func (i *Instance) Restate(ctx context.Context, seq uint64) {
	i.call(ctx, func(now time.Time) {
		if s := i.router.State(); s != vrrp.Initialize && i.router.Seq() == seq {
			i.opt.Hooks.Post(HookEvent{State: stateName(s), Seq: i.router.Seq(), Priority: i.router.EffectivePriority(), At: now, LineOnly: true})
		}
	})
}

// CountHook adds the outcome of the notify programs of one state.
func CountHook(c *control.HookCounters, h control.Hook, err error) {
	c.Seconds += h.Duration
	switch {
	case h.Superseded:
		c.Superseded++
	case err != nil:
		c.Failed++
	default:
		c.Succeeded++
	}
}
