#include "vmm/machine/close_aside.h"

#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

static void *run(void *fd)
{
	pthread_setname_np(pthread_self(), "closer");
	close((int)(intptr_t)fd);
	return NULL;
}

bool close_aside(int fd)
{
	pthread_t t;

	if (pthread_create(&t, NULL, run, (void *)(intptr_t)fd))
		return false;
	pthread_detach(t);
	return true;
}
