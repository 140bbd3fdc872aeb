package userspace

type versionReply struct {
	Version string `json:"version"`
}

type devicesReply struct {
	Devices []string `json:"devices"`
}

type makeRequest struct {
	MTU int `json:"mtu"` // bytes
}

type errorReply struct {
	Error string `json:"error"`
}
