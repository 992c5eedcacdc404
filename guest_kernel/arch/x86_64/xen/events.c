/* Events instead of interrupts: a bit in shared memory says that events are masked, another that some wait. The timer
   is an event that Xen sends at a time of its clock; that clock is the cycle counter, scaled.
   Simplified: one CPU. */
#include "xen.h"

#include "arch.h"
#include "console.h"

#define TICK_NS 10000000ul

static u32 timer_port;
static bool ticking;

static i64 event_call(u32 command, void *argument)
{
    return xen_hypercall(command, (u64)argument, 0, 0, 0, HYPERCALL_EVENT_CHANNEL_OP);
}

/* Nanoseconds of Xen's clock. It is updated seldom, between two changes of its version. */
static u64 now(void)
{
    const volatile struct xen_vcpu_time *time = &xen_vcpu->time;
    u64 result;
    u32 version;
    do {
        version = time->version;
        u64 ticks = cpu_rdtsc() - time->timestamp;
        ticks = time->shift < 0 ? ticks >> -time->shift : ticks << time->shift;
        result = time->ns + (u64)((unsigned __int128)ticks * time->multiplier >> 32);
    } while ((version & 1) || version != time->version);
    return result;
}

static void set_timer(u64 ns) { xen_hypercall(ns, 0, 0, 0, 0, HYPERCALL_SET_TIMER_OP); }

void xen_events_init(void)
{
    struct {
        u32 virq, vcpu, port;
    } bind = {VIRQ_TIMER, 0, 0};
    for (int i = 0; i < XEN_PORT_WORDS; i++)
        xen_shared->mask[i] = ~0ul;
    if (event_call(EVTCHN_BIND_VIRQ, &bind))
        panic("Xen gives no timer events");
    timer_port = bind.port;
    xen_listen(timer_port, true);
}

/* Lets a port's events through, those that wait already too. */
void xen_listen(u32 port, bool on)
{
    if (on)
        event_call(EVTCHN_UNMASK, &port);
    else
        __atomic_or_fetch(&xen_shared->mask[port / 64], 1ul << port % 64, __ATOMIC_SEQ_CST);
}

void xen_notify(u32 port) { event_call(EVTCHN_SEND, &port); }

/* Any hypercall lets Xen deliver what waits; this one does nothing else. */
void xen_irq_enable(void)
{
    __atomic_store_n(&xen_vcpu->mask, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&xen_vcpu->pending, __ATOMIC_SEQ_CST))
        xen_hypercall(0, 0, 0, 0, 0, HYPERCALL_XEN_VERSION);
}

/* Xen unmasks events itself, so that none can slip in before the sleep. */
void xen_wait_for_interrupt(void)
{
    xen_hypercall(SCHED_BLOCK, 0, 0, 0, 0, HYPERCALL_SCHED_OP);
    xen_vcpu->mask = 1;
}

static bool handle(u32 port)
{
    if (port == xen_start_info.console_port)
        xen_console_event();
    if (port != timer_port)
        return false;
    if (ticking)
        set_timer(now() + TICK_NS);
    return true;
}

/* An upcall: whatever waits, until nothing does. */
bool xen_handle_events(void)
{
    bool ticked = false;
    while (__atomic_exchange_n(&xen_vcpu->pending, 0, __ATOMIC_SEQ_CST)) {
        u64 words = __atomic_exchange_n(&xen_vcpu->selector, 0, __ATOMIC_SEQ_CST);
        for (; words; words &= words - 1) {
            u32 word = (u32)__builtin_ctzl(words);
            u64 bits;
            while ((bits = xen_shared->pending[word] & ~xen_shared->mask[word])) {
                u32 bit = (u32)__builtin_ctzl(bits);
                __atomic_and_fetch(&xen_shared->pending[word], ~(1ul << bit), __ATOMIC_SEQ_CST);
                ticked |= handle(word * 64 + bit);
            }
        }
    }
    return ticked;
}

void xen_tick_start(void)
{
    ticking = true;
    set_timer(now() + TICK_NS);
}

void xen_tick_stop(void)
{
    ticking = false;
    set_timer(0);
}
