package gate

// Held returns how many sources have a place, as the policy Busiest counts them.
func (g *Gate) Held() int { return len(g.held) }
