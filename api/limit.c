#include "api/limit.h"

bool limit_take(struct limit *l, uid_t uid, uint64_t now_ns, uint64_t *ret_left_out)
{
	unsigned at = uid % LIMIT_USERS;

	if (!l->users[at].since_ns || now_ns - l->users[at].since_ns >= LIMIT_WINDOW_NS) {
		l->users[at].since_ns = now_ns;
		l->users[at].n = 0;
	}
	if (l->users[at].n == LIMIT_BURST) {
		l->users[at].left_out++;
		return false;
	}
	l->users[at].n++;
	*ret_left_out = l->users[at].left_out;
	l->users[at].left_out = 0;
	return true;
}
