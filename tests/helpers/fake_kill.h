/* fake_kill: how a fake VM process ends without a word. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_KILL_H
#define CAIRN_TESTS_HELPERS_FAKE_KILL_H

#include "vmm/vm_msg.h"

#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* End as by SIGKILL, which the init of a pid namespace cannot send itself. */
static _Noreturn void killed(void)
{
	raise(SIGKILL);
	_exit(VM_EXIT_SIGNAL + SIGKILL);
}

/* Hand the VM over to the listener of a socket, and end. path: ends at a blank. */
static _Noreturn void fake_hand_over(const char *path, uint16_t version, const struct vm_config *config, int listening)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	sscanf(path, "%107[^ ]", to.sun_path);
	if (connect(sock, (void *)&to, sizeof(to)) < 0 ||
		channel_send(sock, version, VM_MSG_CONFIG, 1, config, sizeof(*config), &listening, 1) < 0)
		_exit(VM_EXIT_FAILURE);
	_exit(VM_EXIT_OK);
}

#endif
