/* vsock_dial: the messages between a VM process and cairn-dial, which connects the guest's vsock connections to Unix
 * sockets of the host. They run over a SOCK_SEQPACKET socket. A VM process is confined and opens no path; cairn-dial
 * has the rights of the definition's author, and knows the path. */
#ifndef CAIRN_BASE_VSOCK_DIAL_H
#define CAIRN_BASE_VSOCK_DIAL_H

#include <stdint.h>

/* From the VM process: connect to the socket PATH_PORT. */
struct vsock_dial_request {
	uint32_t id; /* the VM process's number for it */
	uint32_t port;
};

/* The answer. With error 0 it carries one fd, the connected socket. */
struct vsock_dial_answer {
	uint32_t id;
	int32_t error; /* 0 or -errno */
};

#endif
