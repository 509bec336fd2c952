#include "vmm/agent/agent.h"

void agent_hostname(const char *name, char ret[AGENT_HOSTNAME_MAX + 1])
{
	size_t n = 0;

	for (; *name && n < AGENT_HOSTNAME_MAX; name++) {
		bool fits = (*name >= '0' && *name <= '9') || (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z');

		if (fits)
			ret[n++] = *name;
		else if (n && ret[n - 1] != '-' && ((unsigned char)*name & 0xc0) != 0x80)
			ret[n++] = '-';
	}
	while (n && ret[n - 1] == '-')
		n--;
	ret[n] = 0;
}
