//go:build windows || plan9

package logging

import "errors"

func openSyslog() (sink, error) {
	return nil, errors.New("this system has no syslog: want console or a path")
}
