#include "api/store/file_close.h"
#include "base/log.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define STACK_BYTES (128 * 1024)

static void *file_close(void *opaque)
{
	close((int)(intptr_t)opaque);
	return NULL;
}

void file_close_async(int fd)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (fd < 0)
		return;
	r = pthread_attr_init(&attr);
	if (!r) {
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		r = pthread_create(&thread, &attr, file_close, (void *)(intptr_t)fd);
		pthread_attr_destroy(&attr);
	}
	if (r)
		log_warn("store", "cannot close a removed file: %s", strerror(r));
}
