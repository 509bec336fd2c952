#include "tools/agent/copy.h"

int copy_receive(const char *path)
{
	(void)path;
	return 1;
}

int copy_send(const char *path)
{
	(void)path;
	return 1;
}
