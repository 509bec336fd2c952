/* Application processors: started by INIT and SIPI; each reports that it is up, then halts or
 * counts at CPL 3. */
#include "bare.h"

#define TRAMPOLINE 0x8000
#define LAPIC_ICR 0x300
#define ICR_ALL_OTHERS (3u << 18)
#define ICR_ASSERT (1u << 14)
#define ICR_INIT (5u << 8)
#define ICR_STARTUP (6u << 8)

volatile uint64_t ap_online, ap_counter[64];
static void (*volatile ap_enter)(uint64_t id);

void ap_main(uint64_t id)
{
	processor_init((unsigned)id);
	__asm__ volatile("lock btsq %1, %0" : "+m"(ap_online) : "r"(id));
	if (ap_enter)
		ap_enter(id);
	for (;;)
		__asm__ volatile("hlt");
}

void ap_count(uint64_t id)
{
	user_enter((void (*)(uint64_t))count_loop, (uint64_t)&ap_counter[id], NULL);
}

void ap_start(void (*enter)(uint64_t id))
{
	ap_online = 0;
	ap_enter = enter;
	memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	lapic_write(LAPIC_ICR, ICR_ALL_OTHERS | ICR_ASSERT | ICR_INIT);
	lapic_write(LAPIC_ICR, ICR_ALL_OTHERS | ICR_ASSERT | ICR_STARTUP | TRAMPOLINE >> 12);
}
