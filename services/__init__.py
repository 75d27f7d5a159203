"""The processes of Sluiceway, one package each."""
