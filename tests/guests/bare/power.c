/* ACPI's fixed hardware: the power button and S5. */
#include "bare.h"

#define PM1_STATUS (PM_BASE + 0)
#define PM1_ENABLE (PM_BASE + 2)
#define PM1_CONTROL (PM_BASE + 4)
#define BUTTON (1u << 8)
#define SCI_ENABLE 1u

volatile uint64_t button_presses;

static uint64_t button_setup(uint64_t unused)
{
	(void)unused;
	if (!(inw(PM1_CONTROL) & SCI_ENABLE))
		outb(0xb2, 0xf1); /* a PC's firmware enables ACPI by an SMI */
	outw(PM1_STATUS, BUTTON);
	outw(PM1_ENABLE, BUTTON);
	return 0;
}

void button_init(void)
{
	kcall(button_setup, 0);
	ioapic_route(GSI_SCI, true);
}

void button_interrupt(void)
{
	if (!(inw(PM1_STATUS) & BUTTON))
		return;
	outw(PM1_STATUS, BUTTON);
	button_presses++;
}

bool button_pressed(void)
{
	if (!button_presses)
		return false;
	button_presses = 0;
	return true;
}

void power_off(void)
{
	outw(PM1_CONTROL, 5u << 10 | 1u << 13);
}
