/* vm_agent_msg: structs of the messages to and from the guest agent, for vm_msg.h. */
#ifndef CAIRN_VMM_VM_AGENT_MSG_H
#define CAIRN_VMM_VM_AGENT_MSG_H

#include <stdint.h>

enum vm_agent_action { VM_AGENT_TELL = 0, VM_AGENT_SHUTDOWN = 1, VM_AGENT_REBOOT = 2 };

struct vm_agent {
	uint32_t action; /* enum vm_agent_action: the command */
	char text[256];	 /* for VM_AGENT_TELL: one line, which is also shown on the consoles */
};

#define VM_AGENT_COMMAND_MAX (64 * 1024)
#define VM_AGENT_ANSWER_MAX (48u << 20) /* the output of a command, at most 16 MiB for each stream, in base64 */
#define VM_AGENT_TIMEOUT_MAX_S 120 /* a freeze waits for the command in progress */

struct vm_agent_command {
	uint32_t timeout_ms; /* time limit for the answer, counted from when the agent gets the command */
	char text[VM_AGENT_COMMAND_MAX]; /* one line of JSON, without its newline; not terminated */
};

struct vm_agent_answer {
	uint64_t bytes; /* length of the answer in the memfd, at most VM_AGENT_ANSWER_MAX */
};

#define VM_ADDRESSES_MAX 96
enum vm_address_family { VM_ADDRESS_NONE = 0, VM_ADDRESS_IPV4 = 4, VM_ADDRESS_IPV6 = 6 };

/* Addresses of the guest's interfaces, from its agent: an entry for each address, and one for each
 * interface without addresses. */
struct vm_addresses {
	uint32_t n;
	uint32_t cut; /* 1: the list is truncated */
	struct vm_address {
		char name[32]; /* name of the interface, truncated to fit; printable */
		uint8_t mac[6];
		uint8_t has_mac;
		uint8_t family; /* enum vm_address_family */
		uint8_t bytes[16];
		uint8_t prefix; /* length in bits */
		uint8_t reserved[7];
	} list[VM_ADDRESSES_MAX];
};

#endif
