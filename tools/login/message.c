#include "tools/login/message.h"

#include <arpa/inet.h>
#include <string.h>

const struct channel_type login_messages[] = {
	[LOGIN_READY] = { .known = true },
	[LOGIN_ASK] = { .body_min = sizeof(struct login_ask), .body_max = sizeof(struct login_ask), .known = true },
	[LOGIN_END] = { .known = true },
	[LOGIN_ANSWER] = { .body_min = sizeof(struct login_answer), .body_max = sizeof(struct login_answer), .fds_max = 1, .known = true },
};

bool login_ask_is_valid(const struct login_ask *a)
{
	const size_t digits = strlen(LOGIN_LOCAL);
	struct in6_addr any;

	if (!memchr(a->user, 0, sizeof(a->user)) || !memchr(a->password, 0, sizeof(a->password)) || !memchr(a->address, 0, sizeof(a->address)))
		return false;
	if (!a->user[0])
		return false;
	for (const char *c = a->user; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return false;
	if (!login_address_is_remote(a->address))
		return !a->address[0] || a->address[digits + strspn(a->address + digits, "0123456789")] == 0;
	return inet_pton(AF_INET, a->address, &any) == 1 || inet_pton(AF_INET6, a->address, &any) == 1;
}

bool login_address_is_remote(const char *address)
{
	return address[0] && strncmp(address, LOGIN_LOCAL, strlen(LOGIN_LOCAL)) != 0;
}
