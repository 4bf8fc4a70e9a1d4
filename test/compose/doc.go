// Package compose holds no code of its own: its test runs what deploy/compose.yaml
// describes, as processes, since a machine that tests may have no container engine. It
// is a module apart, since the relay has no use for what reads such files.
package compose
