/* Events instead of interrupts: a bit in shared memory says that events are masked, another that some wait. The timer
   is an event that Xen sends at a time of its clock; that clock is the cycle counter, scaled.
   Simplified: CPU 0 has all events but the calls from one CPU to another. */
#include "xen.h"

#include "arch.h"
#include "console.h"
#include "channels.h"
#include "cpus.h"
#include "grants.h"
#include "store.h"

#define TICK_NS 10000000ul

static u32 timer_port;
static u64 bound[MAX_CPUS][XEN_PORT_WORDS]; /* whose ports which are */
static u32 call_port_of[MAX_CPUS];
static bool ticking;

static i64 event_call(u32 command, void *argument)
{
    return xen_hypercall(command, (u64)argument, 0, 0, 0, HYPERCALL_EVENT_CHANNEL_OP);
}

struct xen_vcpu_info *xen_vcpu(void) { return &xen_shared->vcpu[arch_this_cpu()->number]; }

/* Its events are for this CPU. */
void xen_bind(u32 port, u32 cpu) { bound[cpu][port / 64] |= 1ul << port % 64; }

/* Nanoseconds of Xen's clock. It is updated seldom, between two changes of its version. */
u64 xen_clock(void)
{
    const volatile struct xen_vcpu_time *time = &xen_vcpu()->time;
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

void xen_mask_all(void)
{
    for (int i = 0; i < XEN_PORT_WORDS; i++)
        xen_shared->mask[i] = ~0ul;
}

static void set_timer(u64 ns) { xen_hypercall(ns, 0, 0, 0, 0, HYPERCALL_SET_TIMER_OP); }

void xen_events_init(void)
{
    struct {
        u32 virq, vcpu, port;
    } virq = {VIRQ_TIMER, 0, 0};
    xen_mask_all();
    if (event_call(EVTCHN_BIND_VIRQ, &virq))
        panic("Xen gives no timer events");
    timer_port = virq.port;
    xen_bind(timer_port, 0);
    xen_listen(timer_port, true);
}

/* What a PV domain finds in start_info. */
void xen_rings_init(void)
{
    xen_bind(xen_start_info.console_port, 0);
    xen_grants_init();
    xen_store_init(phys_to_virt(xen_pseudo(xen_start_info.store_frame << 12)), xen_start_info.store_port);
}

/* A port whose events are calls for a CPU. */
void xen_bind_call(u32 cpu)
{
    struct {
        u32 vcpu, port;
    } ipi = {cpu, 0};
    if (event_call(EVTCHN_BIND_IPI, &ipi))
        panic("Xen gives no events between CPUs");
    xen_bind(ipi.port, cpu);
    call_port_of[cpu] = ipi.port;
    xen_listen(ipi.port, true);
}

void xen_send_call(u32 cpu) { xen_notify(call_port_of[cpu]); }

/* Lets a port's events through, those that wait already too. */
void xen_listen(u32 port, bool on)
{
    if (on)
        event_call(EVTCHN_UNMASK, &port);
    else
        __atomic_or_fetch(&xen_shared->mask[port / 64], 1ul << port % 64, __ATOMIC_SEQ_CST);
}

/* Has its event happened? Then it has not any more. For who waits with interrupts off. */
bool xen_port_take(u32 port)
{
    u64 bit = 1ul << port % 64;
    return __atomic_fetch_and(&xen_shared->pending[port / 64], ~bit, __ATOMIC_SEQ_CST) & bit;
}

void xen_notify(u32 port) { event_call(EVTCHN_SEND, &port); }

/* Any hypercall lets Xen deliver what waits; this one does nothing else. */
void xen_irq_enable(void)
{
    __atomic_store_n(&xen_vcpu()->mask, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&xen_vcpu()->pending, __ATOMIC_SEQ_CST))
        xen_hypercall(0, 0, 0, 0, 0, HYPERCALL_XEN_VERSION);
}

/* Xen unmasks events itself, so that none can slip in before the sleep. */
void xen_wait_for_interrupt(void)
{
    xen_hypercall(SCHED_BLOCK, 0, 0, 0, 0, HYPERCALL_SCHED_OP);
    xen_vcpu()->mask = 1;
}

static bool handle(u32 port)
{
    u32 cpu = arch_this_cpu()->number;
    if (cpu && port == call_port_of[cpu])
        cpu_call_received();
    if (port == xen_start_info.console_port)
        xen_console_event();
    if (port != timer_port) {
        xen_channel_event(port);
        return false;
    }
    if (ticking)
        set_timer(xen_clock() + TICK_NS);
    return true;
}

/* An upcall: whatever waits, until nothing does. */
bool xen_handle_events(void)
{
    bool ticked = false;
    const u64 *mine = bound[arch_this_cpu()->number];
    while (__atomic_exchange_n(&xen_vcpu()->pending, 0, __ATOMIC_SEQ_CST)) {
        u64 words = __atomic_exchange_n(&xen_vcpu()->selector, 0, __ATOMIC_SEQ_CST);
        for (; words; words &= words - 1) {
            u32 word = (u32)__builtin_ctzl(words);
            u64 bits;
            while ((bits = xen_shared->pending[word] & ~xen_shared->mask[word] & mine[word])) {
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
    set_timer(xen_clock() + TICK_NS);
}

/* Expires once, so many nanoseconds from now. */
void xen_timer_shoot(u64 ns) { set_timer(xen_clock() + ns); }

void xen_tick_stop(void)
{
    ticking = false;
    set_timer(0);
}
