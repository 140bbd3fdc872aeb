// Package view owns the values that the agent's parts exchange: what is known (View, Host), what the kernel
// should hold (Desired), what it holds (DeviceState), and what operators see (Status). Values only: no I/O, no
// clock, no goroutine. All of them print as text, and none of them can hold a secret.
package view
