// Toggles of every net of a mapped netlist, for 64 stimuli at once: bit i of every word belongs to stimulus i.
//
// Functions are programs for a stack: a net's number pushes its value, the rest are operators. A gate is one function
// of nets, in an order in which drivers come first. A flip-flop has a state, a function for the next one, outputs that
// are functions of the state, and the number of the clock gate before it or -1. A clock gate has its enable's function
// and the net of its clock.

#include <cstdint>
#include <vector>

namespace {

using Word = std::uint64_t;

enum : std::int32_t { NOT = -1, AND = -2, OR = -3, XOR = -4, ZERO = -5, ONE = -6, END = -7 };

Word evaluate(const std::int32_t* code, const Word* nets) {
    Word stack[32];
    int top = -1;
    for (;; ++code) {
        switch (*code) {
            case NOT: stack[top] = ~stack[top]; break;
            case AND: --top; stack[top] &= stack[top + 1]; break;
            case OR: --top; stack[top] |= stack[top + 1]; break;
            case XOR: --top; stack[top] ^= stack[top + 1]; break;
            case ZERO: stack[++top] = 0; break;
            case ONE: stack[++top] = ~Word{0}; break;
            case END: return stack[0];
            default: stack[++top] = nets[*code];
        }
    }
}

}  // namespace

extern "C" {

// Row i: output net or, in `flip_flops`, net that holds the state; offset of the function in `code`; clock gate.
struct Function { std::int32_t net, code, gate; };

struct Netlist {
    std::int32_t nets, gates, flip_flops, outputs, clock_gates, inputs, clock;
    const std::int32_t* code;
    const Function *gate, *flip_flop, *output, *clock_gate;  // gate, output and clock_gate: `gate` is not used
    const std::int32_t* input;                               // nets of the stimulus' bits
    const std::int32_t *fanout_start, *fanout;               // numbers of the gates behind each net
};

// stimulus: cycles x inputs words. Adds to `counts` (by net) the toggles of the stimuli in `lanes`, from the edge into
// cycle `first` on. unit_delay: gates take one step each, else none. Returns 0, or 1 if a cycle does not settle.
int count_toggles(const Netlist* n, std::int32_t cycles, std::int32_t first, const Word* stimulus, Word lanes,
                  std::int32_t unit_delay, std::uint64_t* counts) {
    std::vector<Word> value(n->nets, 0), next(n->flip_flops), enabled(n->clock_gates);
    std::vector<std::int32_t> changed, active;
    std::vector<Word> fresh;
    std::vector<char> marked(n->gates, 0);
    bool counting = false;
    auto set = [&](std::int32_t net, Word word) {
        if (counting) counts[net] += __builtin_popcountll((value[net] ^ word) & lanes);
        value[net] = word;
    };
    for (std::int32_t cycle = 0; cycle < cycles; ++cycle) {
        counting = cycle >= first;
        if (cycle) {
            for (std::int32_t i = 0; i < n->clock_gates; ++i) {
                enabled[i] = evaluate(n->code + n->clock_gate[i].code, value.data());
                if (counting) counts[n->clock_gate[i].net] += 2 * __builtin_popcountll(enabled[i] & lanes);
            }
            if (counting && n->clock >= 0) counts[n->clock] += 2 * __builtin_popcountll(lanes);
            for (std::int32_t i = 0; i < n->flip_flops; ++i) {
                const Function& f = n->flip_flop[i];
                next[i] = evaluate(n->code + f.code, value.data());
                if (f.gate >= 0) next[i] = (next[i] & enabled[f.gate]) | (value[f.net] & ~enabled[f.gate]);
            }
            for (std::int32_t i = 0; i < n->flip_flops; ++i) value[n->flip_flop[i].net] = next[i];
        }
        changed.clear();
        auto move = [&](std::int32_t net, Word word) {
            if (value[net] == word) return;
            set(net, word);
            changed.push_back(net);
        };
        for (std::int32_t i = 0; i < n->outputs; ++i)
            move(n->output[i].net, evaluate(n->code + n->output[i].code, value.data()));
        for (std::int32_t i = 0; i < n->inputs; ++i)
            move(n->input[i], stimulus[std::int64_t{cycle} * n->inputs + i]);
        if (!unit_delay || !cycle) {
            for (std::int32_t i = 0; i < n->gates; ++i)
                set(n->gate[i].net, evaluate(n->code + n->gate[i].code, value.data()));
            continue;
        }
        for (std::int32_t step = 0; !changed.empty(); ++step) {
            if (step > 4 * n->gates) return 1;
            active.clear();
            for (std::int32_t net : changed)
                for (std::int32_t i = n->fanout_start[net]; i < n->fanout_start[net + 1]; ++i)
                    if (!marked[n->fanout[i]]) {
                        marked[n->fanout[i]] = 1;
                        active.push_back(n->fanout[i]);
                    }
            fresh.clear();
            for (std::int32_t gate : active) fresh.push_back(evaluate(n->code + n->gate[gate].code, value.data()));
            changed.clear();
            for (std::size_t i = 0; i < active.size(); ++i) {
                marked[active[i]] = 0;
                move(n->gate[active[i]].net, fresh[i]);
            }
        }
    }
    return 0;
}
}
