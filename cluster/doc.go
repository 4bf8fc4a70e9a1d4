// Package cluster makes one relay of many pods.
package cluster
