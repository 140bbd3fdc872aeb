package product_test

import "testing"

// TestProduct applies the manifest to three nodes without a network, and shows in this order what comes of it.
func TestProduct(t *testing.T) {
	w := start(t)
	w.runPods(t, map[string]string{pod1: w.nodes[0], neighbour: w.nodes[0], pod2: w.nodes[1], pod3: w.nodes[2]})
	t.Run("pods talk, and the underlay shows nothing of it", w.testTraffic)
	t.Run("wg show lists every other node", w.testWGShow)
	t.Run("the log tells of the start", w.testLog)
	t.Run("weaveguard status says that all is well", w.testStatus)
	t.Run("a NetworkPolicy isn't ignored in silence", w.testNetworkPolicy)
	t.Run("hostPorts work", w.testHostPort)
	t.Run("pods come and go in waves", w.testWaves)
	t.Run("the manifest is applied again", w.testApplyAgain)
	t.Run("the gossip key changes, and is taken away", w.testKeyring)
	t.Run("the service account may do little", w.testAccess)
	t.Run("the API server is asked little", w.testAPIRequests)
	t.Run("keys rotate under traffic", w.testRotation)
	t.Run("dashboard and alerts have what they ask for", w.testMonitoring)
	t.Run("an agent's pod is deleted under traffic", w.testAgentRestart)
	t.Run("an agent's token is revoked under traffic", w.testRevokedToken)
	t.Run("the agents are rolled out under traffic", w.testRollout)
	t.Run("all agents are killed under traffic", w.testAllAgents)
	t.Run("the API server is away, and an agent is killed", w.testAPIServerAway)
	t.Run("a node's agent and kubelet end", w.testAgentsEnd)
	t.Run("a node is cut off its power", w.testPowerCut)
	t.Run("a stolen node says what others may say alone", w.testStolenGossip)
	t.Run("a node's disk is wiped", w.testWipedDisk)
	t.Run("a node joins, and is deleted", w.testJoinAndDelete)
	t.Run(noSecretSaid, w.testSecrets)
}
