#include "tools/net/operation.h"
#include "base/err.h"

#include <errno.h>

int network_port_up(struct operation *o, struct err *e)
{
	(void)o;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "this cairn-net does not filter ports");
}

int network_port_down(struct operation *o, struct err *e)
{
	(void)o;
	(void)e;
	return 0;
}
