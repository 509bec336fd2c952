#include "tools/web/peer.h"
#include "base/cleanup.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

void peers_init(struct peers *p)
{
	const struct timeval second = { 1, 0 };

	pthread_mutex_init(&p->lock, NULL);
	p->sock = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (p->sock >= 0)
		setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
}

/* Write the address and the port of one end.
 * Returns the family: AF_INET also for an IPv4 address in an IPv6 one; 0: none. */
static uint8_t end_write(const struct sockaddr_storage *a, __be32 address[4], __be16 *port)
{
	const struct sockaddr_in *four = (const void *)a;
	const struct sockaddr_in6 *six = (const void *)a;
	bool mapped = a->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr);

	if (a->ss_family != AF_INET && a->ss_family != AF_INET6)
		return 0;
	*port = a->ss_family == AF_INET ? four->sin_port : six->sin6_port;
	if (a->ss_family == AF_INET)
		memcpy(address, &four->sin_addr, 4);
	else
		memcpy(address, (const char *)&six->sin6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
	return a->ss_family == AF_INET || mapped ? AF_INET : AF_INET6;
}

struct question {
	struct nlmsghdr head;
	struct inet_diag_req_v2 ask;
};

/* Make the question for the socket at the other end: its own address is our peer's. */
static bool question_make(int fd, uint32_t number, struct question *q)
{
	struct sockaddr_storage here, there;
	socklen_t here_len = sizeof(here), there_len = sizeof(there);

	if (getsockname(fd, (struct sockaddr *)&here, &here_len) < 0 || getpeername(fd, (struct sockaddr *)&there, &there_len) < 0)
		return false;
	*q = (struct question){ .head = { .nlmsg_len = sizeof(*q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = number },
		.ask = { .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0U, .id.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } };
	q->ask.sdiag_family = end_write(&there, q->ask.id.idiag_src, &q->ask.id.idiag_sport);
	return q->ask.sdiag_family && end_write(&here, q->ask.id.idiag_dst, &q->ask.id.idiag_dport) == q->ask.sdiag_family;
}

bool peer_find(struct peers *p, int fd, uid_t *ret_uid)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_msg msg;
		char more[512];
	} answer;
	struct question q;
	ssize_t n;
	LOCK_GUARD(&p->lock);

	if (p->sock < 0 || !question_make(fd, ++p->asked, &q) || send(p->sock, &q, sizeof(q), 0) != sizeof(q))
		return false;
	do {
		n = recv(p->sock, &answer, sizeof(answer), 0);
		if (n < (ssize_t)sizeof(answer.head))
			return false;
	} while (answer.head.nlmsg_seq != q.head.nlmsg_seq);
	if (answer.head.nlmsg_type != SOCK_DIAG_BY_FAMILY || n < (ssize_t)(sizeof(answer.head) + sizeof(answer.msg)))
		return false;
	*ret_uid = answer.msg.idiag_uid;
	return answer.msg.idiag_uid != 0;
}
