package control

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
)

// PlanRequest asks what a reload would do if the configuration were that of another file.
type PlanRequest struct {
	File string `json:"file"` // absolute
}

// Plan is what a reload with a file would do. Nothing of it is done.
type Plan struct {
	File    string `json:"file"`
	Running string `json:"running"` // the file of the configuration that runs
	// Refused is why such a reload would change nothing at all.
	Refused string `json:"refused,omitempty"`
	// Findings are what vrrpd check says of the file.
	Findings []string `json:"findings,omitempty"`
	// Steps are in the order in which they are done. None: the file changes nothing.
	Steps []PlanStep `json:"steps"`
	// NeedsRestart names the keywords of global_defs that differ and that a reload leaves as they are.
	NeedsRestart []string `json:"needs_restart,omitempty"`
	// Unchanged names the instances that notice nothing: no advert more, no hook.
	Unchanged []string `json:"unchanged,omitempty"`
}

// The actions of a PlanStep.
const (
	PlanChange = "change" // it goes on with other settings
	PlanAdd    = "add"
	PlanRemove = "remove"
	PlanMove   = "move"
	PlanRun    = "run"
	PlanStart  = "start"
	PlanStop   = "stop"
)

// PlanStep is one thing that a reload would do.
type PlanStep struct {
	Action   string   `json:"action"`
	Kind     string   `json:"kind"` // instance, address, vmac, hook, script, track_file, track_process, fifo, sync_group, global_defs, quorum …
	Name     string   `json:"name"`
	Keywords []string `json:"keywords,omitempty"` // what differs
	Text     string   `json:"text,omitempty"`
}

// Plan asks what a reload with file would do. The file is read by vrrpd, not by the caller.
func (c *Client) Plan(ctx context.Context, file string) (Plan, error) {
	var p Plan
	file, err := filepath.Abs(file)
	if err != nil {
		return p, fmt.Errorf("plan a reload: %w", err)
	}
	err = c.call(ctx, http.MethodPost, "/v1/plan", PlanRequest{File: file}, &p)
	return p, err
}

// plan answers root alone: it reads any file with vrrpd's rights, and quotes from it.
func (s *Server) plan(w http.ResponseWriter, r *http.Request) {
	if !s.privileged(w, r, "plan") {
		return
	}
	var q PlanRequest
	if !body(w, r, "plan", &q) {
		return
	}
	if !filepath.IsAbs(q.File) {
		fail(w, http.StatusBadRequest, fmt.Errorf("plan a reload with %q: not an absolute path", q.File))
		return
	}
	p, err := s.daemon.Plan(r.Context(), q.File)
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, http.StatusOK, p)
}
