// Package k8s has no code of its own: its tests install the chart on a real
// Kubernetes, and measure what peers notice of rollouts, scaling, faults and
// rotations. README.md has the figures and says how to run them.
package k8s
