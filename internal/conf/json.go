package conf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// Report is what vrrpd check --json prints: one object with config, diagnostics and exit_code. Keys are added and never
// change their meaning.
type Report struct {
	Config      *Config      `json:"config"`
	Diagnostics []Diagnostic `json:"diagnostics"` // in the order of the text, those about the host after them
	ExitCode    int          `json:"exit_code"`   // see ExitCode
}

// NewReport makes the report of a configuration and all that was found about it.
func NewReport(c *Config, found []Diagnostic, strict bool) Report {
	if found == nil {
		found = []Diagnostic{}
	}
	return Report{c, found, ExitCode(found, strict)}
}

// MarshalJSON gives the configuration for people and scripts: keys in snake_case, durations in seconds, places as
// file:line:column under "at", addresses as text, and passwords and keys masked.
func (c *Config) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := encode(&b, reflect.ValueOf(*c)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func encode(b *bytes.Buffer, v reflect.Value) error {
	switch x := v.Interface().(type) {
	case time.Duration:
		return encodeValue(b, x.Seconds())
	case netip.Addr:
		if !x.IsValid() {
			return encodeValue(b, "")
		}
		return encodeValue(b, x.String())
	case netip.Prefix:
		if !x.IsValid() {
			return encodeValue(b, "")
		}
		return encodeValue(b, x.String())
	case MAC:
		return encodeValue(b, x.String())
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return encode(b, v.Elem())
	case reflect.Struct:
		b.WriteByte('{')
		for i := range v.NumField() {
			if i > 0 {
				b.WriteByte(',')
			}
			field, value := v.Type().Field(i), v.Field(i)
			name := snake(field.Name)
			switch {
			case field.Type == posType:
				name, value = "at", reflect.ValueOf(value.Interface().(Pos).At())
			case secret(field.Name) && value.Len() > 0:
				value = reflect.ValueOf("********")
			}
			fmt.Fprintf(b, "%q:", name)
			if err := encode(b, value); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := encode(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	}
	return encodeValue(b, v.Interface())
}

// secret says whether a field is shown as nothing but that it is there.
func secret(field string) bool { return field == "Password" || field == "Secret" }

func encodeValue(b *bytes.Buffer, v any) error {
	text, err := json.Marshal(v)
	b.Write(text)
	return err
}

// snake turns a Go name into a JSON key.
func snake(name string) string {
	name = strings.NewReplacer("IPv6", "Ipv6", "VRIDs", "Vrids", "NoDAD", "Nodad", "MngTmpAddr", "Mngtmpaddr",
		"NoPrefixRoute", "Noprefixroute", "AutoJoin", "Autojoin").Replace(name)
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		upper := 'A' <= c && c <= 'Z'
		if upper && i > 0 {
			lowerBefore := name[i-1] < 'A' || name[i-1] > 'Z'
			lowerAfter := i+1 < len(name) && (name[i+1] < 'A' || name[i+1] > 'Z')
			if lowerBefore || lowerAfter {
				b.WriteByte('_')
			}
		}
		if upper {
			c += 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}
