#include "vmm/agent/agent.h"

#include <stdio.h>

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

void agent_name_command(const char *name, char ret[AGENT_NAME_COMMAND_MAX])
{
	snprintf(ret, AGENT_NAME_COMMAND_MAX,
		"{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\","
		"\"hostnamectl set-hostname $1 || { hostname $1 && echo $1 >/etc/hostname; }\",\"sh\",\"%s\"]}}\n", name);
}

void agent_quote(const char *line, char ret[2 * AGENT_WORDS_MAX + 1])
{
	size_t n = 0;

	for (size_t i = 0; line[i] && i < AGENT_WORDS_MAX; i++) {
		if (line[i] == '"' || line[i] == '\\')
			ret[n++] = '\\';
		ret[n++] = (unsigned char)line[i] < ' ' || line[i] == 0x7f ? '?' : line[i];
	}
	ret[n] = 0;
}
