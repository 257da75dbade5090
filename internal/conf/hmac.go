package conf

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of auth_hmac.
const (
	minHMACKey    = 32 // bytes
	maxHMACKey    = 64
	maxHMACWindow = 300 * time.Second
	minHMACWindow = 5 * time.Second // of the default
)

func hmacKeywords() [][]keyword[instanceDraft] {
	id := func(s *statement) (uint8, bool) {
		v, ok := s.number(s.arg(0), 1, 255, "ignored")
		return uint8(v), ok
	}
	return [][]keyword[instanceDraft]{{
		{name: "key", max: 2, set: func(s *statement, d *instanceDraft) {
			if s.args() < 2 {
				s.bad(s.arg(s.args()), "value is missing, expected key ID MATERIAL; ignored")
				return
			}
			n, ok := id(s)
			if !ok {
				return
			}
			for _, k := range d.HMAC.Keys {
				if k.ID == n {
					s.bad(s.arg(0), "key of this id is given already (at %s), expected an id of its own; ignored", k.At())
					return
				}
			}
			secret, problem := s.hmacSecret(s.text(1))
			switch {
			case problem != "":
				s.bad(s.arg(1), "%s; the key is ignored", problem)
			case len(secret) < minHMACKey || len(secret) > maxHMACKey:
				s.bad(s.arg(1), "key of %d bytes, expected %d to %d; ignored", len(secret), minHMACKey, maxHMACKey)
			default:
				d.HMAC.Keys = append(d.HMAC.Keys, HMACKey{Pos: s.words[0].pos, ID: n, Secret: secret})
			}
		}},
		{name: "active_key", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if n, ok := id(s); ok {
				d.HMAC.ActiveKey = n
			}
		}},
		{name: "mode", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			switch w := s.arg(0); w.text {
			case HMACEnforce, HMACPermissive, HMACReceiveOnly:
				d.HMAC.Mode = w.text
			default:
				s.bad(w, "unknown mode, expected enforce, permissive or receive-only; ignored")
			}
		}},
		{name: "anti_replay", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			switch w := s.arg(0); w.text {
			case "time":
				d.HMAC.Monotonic = false
			case "monotonic":
				d.HMAC.Monotonic = true
			default:
				s.bad(w, "unknown value, expected time or monotonic; ignored")
			}
		}},
		{name: "time_window", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.number(s.arg(0), 1, int64(maxHMACWindow/time.Second), "ignored"); ok {
				d.HMAC.Window = time.Duration(v) * time.Second
			}
		}},
	}}
}

// hmacSecret reads a key: hex:DIGITS, file:PATH with one of the two in it, or the characters themselves.
func (s *statement) hmacSecret(text string) (secret []byte, problem string) {
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(s.words[0].pos.File), path)
		}
		if stat := s.p.r.opts.Stat; stat != nil {
			info, err := stat(path)
			switch {
			case err != nil: // said by what follows
			case !info.Mode().IsRegular():
				return nil, "key file " + path + " is no plain file"
			case info.Mode().Perm()&0o077 != 0:
				s.report(Security, word{pos: s.words[0].pos}, "key file %s may be read by others than its owner, expected mode 0600", path)
			}
		}
		content, err := s.p.r.opts.ReadFile(path)
		if err != nil {
			var in *fs.PathError
			if errors.As(err, &in) {
				err = in.Err
			}
			return nil, "key file " + path + " cannot be read: " + err.Error()
		}
		text = strings.TrimRight(string(content), "\r\n")
	}
	digits, ok := strings.CutPrefix(text, "hex:")
	if !ok {
		return []byte(text), ""
	}
	secret, err := hex.DecodeString(digits)
	if err != nil {
		return nil, "not hexadecimal, expected an even number of the digits 0 to 9 and a to f after hex:"
	}
	return secret, ""
}

// finishHMAC settles auth_hmac. Without a usable key the adverts would be unauthenticated, so nothing runs then.
func (d *instanceDraft) finishHMAC(report reporter) {
	if _, ok := d.seen["auth_hmac"]; !ok {
		return
	}
	h := &d.HMAC
	if _, ok := d.seen["auth_type"]; ok {
		report(Error, "authentication", "", "auth_hmac takes its place, expected one of the two; adverts go out without the password")
		d.Password, d.HasPassword = "", false
	}
	known := false
	for _, k := range h.Keys {
		known = known || k.ID == h.ActiveKey
	}
	switch {
	case len(h.Keys) == 0:
		report(Fatal, "auth_hmac", "", "there is no usable key, expected key ID MATERIAL: without one adverts would go out and be accepted unauthenticated")
	case h.ActiveKey == 0:
		report(Fatal, "auth_hmac", "", "active_key is missing, expected the id of one of the keys: without it adverts would go out and be accepted unauthenticated")
	case !known:
		report(Fatal, "auth_hmac", "", "active_key %d has no usable key, expected the id of one of the keys: without it adverts would go out and be accepted unauthenticated", h.ActiveKey)
	}
	if h.Monotonic {
		if h.Window != 0 {
			report(Lint, "auth_hmac", "", "time_window has no effect with anti_replay monotonic")
		}
		h.Window = 0
		return
	}
	if h.Window == 0 {
		h.Window = min(max(3*d.AdvertInterval.Truncate(time.Second), minHMACWindow), maxHMACWindow)
	}
	if h.Window <= d.AdvertInterval {
		report(Lint, "auth_hmac", "", "time_window (%s s) is not longer than advert_int (%s s): a clock that is a little off stops all adverts",
			secondsText(h.Window), secondsText(d.AdvertInterval))
	}
}
