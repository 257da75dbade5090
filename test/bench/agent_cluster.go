package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/agent"
	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// trio is three PostgreSQL nodes, each with vrrpd and the agent, and two witnesses, as etc/quorum-3data-2witness has them.
type trio struct {
	*lab.Quorum
	l  *lab.Lab
	pg *lab.Cluster
}

// healTime is the patience with a cluster that has to become whole by itself.
const healTime = time.Minute

// newTrio makes the cluster as somebody does who begins: a primary, init, and two empty hosts that join by themselves.
func newTrio(ctx context.Context, s settings) (_ *trio, err error) {
	l, err := lab.New(ctx, lab.Options{Hosts: len(councilData), Extra: []lab.HostSpec{{Name: "w1", Index: 21}, {Name: "w2", Index: 22}},
		Programs: map[string]string{"/usr/sbin/vrrpd": filepath.Join(s.bin, "vrrpd"), "/usr/bin/pgnotify": filepath.Join(s.bin, "pgnotify")}})
	if err != nil {
		return nil, err
	}
	t := &trio{l: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close(s, err))
		}
	}()
	o := lab.QuorumOptions{Sample: filepath.Join(s.etc, "quorum-3data-2witness"), LogLevel: "info", Settings: map[string]string{"max_connections": "50"}}
	if s.logs != "" {
		o.LogLevel, o.Settings["log_connections"] = "debug", "on"
	}
	boot, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	if t.Quorum, err = l.NewQuorum(boot, o); err != nil {
		return nil, err
	}
	t.pg = t.PG
	if _, err := t.Init(boot); err != nil {
		return nil, err
	}
	_, err = t.whole(ctx)
	return t, err
}

// close saves the logs if they are wanted, or if what was done with the cluster failed, and ends the lab.
func (t *trio) close(s settings, failed error) error {
	dir := s.logs
	var errs []error
	if dir == "" && failed != nil && !errors.Is(failed, context.Canceled) {
		var err error
		dir, err = os.MkdirTemp("", "pgvrrp-logs-")
		errs = append(errs, err, errors.New("the logs of all processes are in "+dir))
	}
	if dir != "" {
		errs = append(errs, t.l.SaveLogs(dir))
	}
	return errors.Join(append(errs, t.l.Close())...)
}

// boot gives hosts their power back, and starts what runs there.
func (t *trio) boot(ctx context.Context, names ...string) error {
	var g errgroup.Group
	for _, n := range names {
		g.Go(func() error {
			if err := t.l.Host(n).Boot(ctx); err != nil {
				return err
			}
			return t.Start(ctx, n)
		})
	}
	return g.Wait()
}

// order gives a node's agent an order, once it answers, and waits for what becomes of it.
func (t *trio) order(ctx context.Context, host, what string, q agent.Request) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	err := lab.Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		_, err := t.Status(ctx, host)
		return err == nil, fmt.Sprint(err), nil
	})
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return t.l.Host(host).Dial(ctx, "unix", agent.DefaultSocket)
	}}}
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+"/v1/"+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s of %s: %s", what, host, bytes.TrimSpace(text))
	}
	return err
}

// whole waits until the cluster is whole but for the named hosts, every agent knows of the same epoch and has nothing to do, and the log's
// leader is not the holder. Without a named host every voter counts, too: one that the log has left out comes back in some seconds, and until
// then the others are no five that can lose two. It returns the holder.
func (t *trio) whole(ctx context.Context, but ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	if len(but) == 0 {
		if err := t.Voters(ctx); err != nil {
			return "", err
		}
	}
	holder := ""
	err := lab.Poll(ctx, 30*time.Millisecond, func() (ok bool, last string, err error) {
		if holder, err = t.Whole(ctx, but...); err != nil {
			return false, "", err
		}
		epoch := uint64(0)
		for _, n := range councilData {
			if slices.Contains(but, n) {
				continue
			}
			s, err := t.Status(ctx, n)
			if err != nil {
				return false, err.Error(), nil //nolint:nilerr // it is asked again
			}
			if epoch == 0 {
				epoch = s.Resource.Epoch
			}
			if s.Resource.Epoch != epoch || s.Resource.Holder != holder || s.Doing != "" {
				return false, fmt.Sprintf("%s: epoch %d by %s, doing %q; others know epoch %d", n, s.Resource.Epoch, s.Resource.Holder, s.Doing, epoch), nil
			}
		}
		v, err := t.Vrrpd(ctx, holder)
		if err != nil {
			return false, err.Error(), nil //nolint:nilerr // it is asked again
		}
		return v.Quorum.Leader != "" && v.Quorum.Leader != holder, "the log's leader is the holder or nobody", nil
	})
	return holder, err
}

// standbys are the data nodes but one, in order.
func standbys(holder string) []string {
	return slices.DeleteFunc(slices.Clone(councilData), func(n string) bool { return n == holder })
}

// meter starts clients that write through the address.
func (t *trio) meter(ctx context.Context, writers int, interval time.Duration) (*meter.Meter, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return meter.Start(ctx, meter.Config{
		Conninfo: t.pg.MeterConninfo(lab.VIP(1).String()), Dial: t.l.Client().Dial, Writers: writers, Interval: interval, Threshold: 5 * time.Millisecond,
	})
}

// waitAck waits for an acknowledged commit at or after a time.
func waitAck(ctx context.Context, m *meter.Meter, after time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	_, err := m.WaitAck(ctx, after)
	return err
}

// proved is a meter's report, which fails unless every acknowledged row is there.
func proved(ctx context.Context, m *meter.Meter) (meter.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	r, err := m.Report(ctx)
	if err == nil && (len(r.Lost) > 0 || r.Unknown > 0 || r.FailedFound > 0 || r.Acked == 0) {
		err = fmt.Errorf("acknowledged %d, lost %d, there although never written %d or failed %d: %v", r.Acked, len(r.Lost), r.Unknown, r.FailedFound, r)
	}
	return r, err
}
