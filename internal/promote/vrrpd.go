package promote

import (
	"context"
	"fmt"
	"strconv"

	"pgvrrp/internal/control"
)

// VrrpdEnv is what vrrpd tells its hooks in their environment.
type VrrpdEnv struct{ Socket, Instance, Seq string }

// FromEnv reads VRRPD_SOCKET, VRRPD_INSTANCE and VRRPD_SEQ.
func FromEnv(getenv func(string) string) VrrpdEnv {
	return VrrpdEnv{getenv("VRRPD_SOCKET"), getenv("VRRPD_INSTANCE"), getenv("VRRPD_SEQ")}
}

// Ask returns the question to the vrrpd that started us, nil if none did. A question that can't be asked has failed.
func (v VrrpdEnv) Ask() Ask {
	if v == (VrrpdEnv{}) {
		return nil
	}
	return func(ctx context.Context, ev Event) error {
		seq, err := strconv.ParseUint(v.Seq, 10, 64)
		if err != nil || v.Socket == "" {
			return fmt.Errorf("can't ask vrrpd whether %s is still its state: environment has VRRPD_SOCKET=%q VRRPD_SEQ=%q", ev.State, v.Socket, v.Seq)
		}
		name := v.Instance
		if name == "" {
			name = ev.Name
		}
		c := control.NewClient(v.Socket)
		defer c.Close()
		i, err := c.Instance(ctx, name)
		if err != nil {
			return fmt.Errorf("can't ask vrrpd whether %s is still its state: %w", ev.State, err)
		}
		if i.State != ev.State || i.Seq != seq {
			return fmt.Errorf("vrrpd has moved on: %s is %s (transition %d), this hook is for %s (transition %d)", name, i.State, i.Seq, ev.State, seq)
		}
		return nil
	}
}
